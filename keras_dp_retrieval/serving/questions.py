"""Questions: what one request asks, and several asked as one batch."""

import dataclasses
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Question:
    """What one request asks about some users, as in `recommend`.

    Attributes:
        user_ids: Optional list of ids, `(num_users,)`.
        histories: Optional list of lists of candidate ids.
        user_features: Optional dict from names to lists, `(num_users,)`.
        exclude: Optional list of lists of candidate ids.
        k: int.
        exclude_seen: bool.
        allowed_ids: Optional tuple of candidate ids.
        filters: Optional str. Filters as in `recommend`, as JSON.
        explain: int. Items of the history to name for each candidate.
        vectors: bool. Whether the users' vectors are wanted, and no lists.
    """

    user_ids: Sequence | None = None
    histories: Sequence | None = None
    user_features: Mapping[str, Sequence] | None = None
    exclude: Sequence | None = None
    k: int = 10
    exclude_seen: bool = True
    allowed_ids: tuple | None = None
    filters: str | None = None
    explain: int = 0
    vectors: bool = False

    def __len__(self):
        if self.user_ids is not None:
            return len(self.user_ids)
        if self.histories is not None:
            return len(self.histories)
        return len(next(iter((self.user_features or {"": ()}).values())))

    @property
    def group(self) -> tuple:
        """Questions of equal groups can be asked together."""
        return (
            self.user_ids is None,
            self.histories is None,
            tuple(sorted(self.user_features or ())),
            self.exclude_seen,
            self.allowed_ids,
            self.filters,
            self.vectors,
        )


def together(questions: Sequence[Question]) -> Question:
    """Several questions of one group as one, about all of their users."""
    first = questions[0]
    if len(questions) == 1:
        return first
    return dataclasses.replace(
        first,
        user_ids=_joined(questions, "user_ids"),
        histories=_joined(questions, "histories"),
        user_features=first.user_features
        and {
            name: [
                value
                for one in questions
                for value in (one.user_features or {})[name]
            ]
            for name in first.user_features
        },
        exclude=_joined_excludes(questions),
        k=max(one.k for one in questions),
        explain=max(one.explain for one in questions),
    )


def padded(question: Question, size: int) -> Question:
    """The question about `size` users, the first of whom comes again."""
    missing = size - len(question)
    if not missing:
        return question

    def longer(values):
        if values is None:
            return None
        return [*values, *list(values[:1]) * missing]

    features = question.user_features
    return dataclasses.replace(
        question,
        user_ids=longer(question.user_ids),
        histories=longer(question.histories),
        user_features=features
        and {name: longer(values) for name, values in features.items()},
        exclude=longer(question.exclude),
    )


def _joined(questions, name: str):
    if getattr(questions[0], name) is None:
        return None
    return [value for one in questions for value in getattr(one, name)]


def _joined_excludes(questions):
    if all(one.exclude is None for one in questions):
        return None
    return [
        ids
        for one in questions
        for ids in (one.exclude or [[] for _ in range(len(one))])
    ]
