"""Retriever: a model's answers in few shapes, compiled before they are used."""

import dataclasses

import keras
import numpy as np

from keras_dp_retrieval.data.padding import PADDING
from keras_dp_retrieval.model import id_rows
from keras_dp_retrieval.model.request_users import POPULAR, users_of
from keras_dp_retrieval.model.row_lists import joined
from keras_dp_retrieval.model.row_lists import padded as padded_lists
from keras_dp_retrieval.serving import questions as asked
from keras_dp_retrieval.serving import shapes, warm_up
from keras_dp_retrieval.serving.candidate_masks import CandidateMasks
from keras_dp_retrieval.serving.likeness import Likeness
from keras_dp_retrieval.serving.padded_inputs import padded_inputs
from keras_dp_retrieval.serving.request_limits import Limits
from keras_dp_retrieval.serving.row_searches import EXACT, search_of
from keras_dp_retrieval.towers import history_tower
from keras_dp_retrieval.training.finite import check_vectors


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is said of one user.

    Attributes:
        source: str. Where it comes from, as in `recommend`.
        num_unknown: int. Ids that the model does not know.
        ids: list of candidate ids, best first; shorter than k where fewer
            are left.
        scores: list of floats.
        because: For each candidate, a list of `(candidate id, likeness)` of
            the items of the history that are nearest to it.
        vector: Optional float32 `(dim,)`; None, too, where nothing is known.
    """

    source: str
    num_unknown: int
    ids: list = dataclasses.field(default_factory=list)
    scores: list = dataclasses.field(default_factory=list)
    because: list = dataclasses.field(default_factory=list)
    vector: np.ndarray | None = None


class Retriever:
    """Answers questions with a model, as `recommend` does.

    What differs is when programs are compiled: users, histories and lists of
    what to leave out are padded to few shapes, and `warm_up` has met all of
    them. Not safe for several threads at a time.

    Args:
        model: `TwoTowerRetrieval`, which must not change from now on.
        limits: `Limits`. Longer questions have other shapes.
        search: One of `SEARCHES`.
    """

    def __init__(self, model, limits: Limits, search: str = EXACT):
        self.model, self.limits = model, limits
        candidates = model.candidate_vectors()
        self.masks = CandidateMasks(model)
        everything = self.masks.get(None, None)
        check_vectors("candidate", candidates, everything.allowed)
        self._likeness = Likeness(model, candidates)
        self._row_search = search_of(model, candidates, search)
        self._sizes = shapes.batch_sizes(limits.users)
        self._lengths = shapes.list_lengths(limits.k)
        most = limits.history + self._longest_seen()
        self._excluded_widths = shapes.excluded_widths(most)
        self._input_widths = _input_widths(model, most)
        self._encode = _encoder(model)

    def answers(self, questions) -> list[list[Answer]]:
        """One answer for each user of each question.

        Args:
            questions: `Question`s of one group, of `limits.users` users at
                most together.

        Raises:
            ValueError: If the model cannot be asked one of them.
        """
        question = asked.together(questions)
        found = iter(self._answers_of(question))
        return [
            [_shortened(next(found), one) for _ in range(len(one))]
            for one in questions
        ]

    def warm_up(self) -> None:
        """Meets all shapes once, so that nothing is compiled afterwards."""
        for question in warm_up.usual_questions(
            self.model, self._sizes, self._lengths, self._excluded_widths
        ):
            self._answers_of(question)
        for inputs in warm_up.usual_inputs(
            self.model, self._sizes, self._input_widths
        ):
            self._vectors(inputs)
        for filters in warm_up.usual_filters(self.model):
            self.masks.get(None, filters)

    def _answers_of(self, question) -> list[Answer]:
        number = len(question)
        size = shapes.smallest(self._sizes, number)
        question = asked.padded(question, size)
        model, part = self.model, slice(0, size)
        users = users_of(
            model,
            question.user_ids,
            question.histories,
            question.user_features,
            POPULAR,
        )
        sources = users.sources[:number].tolist()
        unknown = users.num_unknown[:number].tolist()
        vectors = None
        if not (users.sources == POPULAR).all():
            vectors = users.vectors(part, self._vectors)
        if question.vectors:
            return _vector_answers(sources, unknown, vectors)
        seen = users.seen(part)
        excluded = self._excluded(question, seen)
        mask = self.masks.get(question.allowed_ids, question.filters)
        rows, scores = self._search(
            question.k, vectors, users.sources, excluded, mask
        )
        return [
            self._answer(source, num_unknown, rows[n], scores[n], because)
            for n, (source, num_unknown) in enumerate(
                zip(sources, unknown, strict=True)
            )
            for because in [self._because(question.explain, rows[n], seen, n)]
        ]

    def _search(self, k, vectors, sources, excluded, mask):
        """Table rows and scores, `(batch, k)`, padded as in `recommend`."""
        is_popular = sources == POPULAR
        found = None
        if vectors is not None:
            rows, scores = self._row_search(
                vectors,
                shapes.smallest(self._lengths, k),
                self._widened(excluded, len(sources)),
                mask,
            )
            found = rows[:, :k], scores[:, :k]
        if not is_popular.any():
            return found
        popular = mask.popular(len(sources), k, excluded)
        if found is None:
            return popular
        return tuple(
            np.where(is_popular[:, None], one, other)
            for one, other in zip(popular, found, strict=True)
        )

    def _excluded(self, question, seen) -> np.ndarray | None:
        more = None
        if question.exclude is not None:
            more = padded_lists(
                [
                    id_rows.known_candidate_rows(self.model, ids)
                    for ids in question.exclude
                ]
            )
        return joined(seen if question.exclude_seen else None, more)

    def _widened(self, excluded, size: int) -> np.ndarray:
        if excluded is None:
            return np.full((size, self._excluded_widths[0]), PADDING, "int32")
        longest = int((excluded != PADDING).sum(axis=1).max(initial=0))
        width = shapes.smallest(self._excluded_widths, longest)
        if width < excluded.shape[1]:  # What was joined left gaps.
            last = np.argsort(excluded == PADDING, axis=1, kind="stable")
            excluded = np.take_along_axis(excluded, last, axis=1)
            excluded = excluded[:, :width]
        more = width - excluded.shape[1]
        return np.pad(excluded, ((0, 0), (0, more)), constant_values=PADDING)

    def _vectors(self, inputs):
        return self._encode(padded_inputs(inputs, self._input_widths))

    def _answer(self, source, num_unknown, rows, scores, because):
        number = int((rows >= 0).sum())  # Padding stands at the end.
        ids = id_rows.candidate_ids(self.model, rows[:number])
        return Answer(
            source,
            num_unknown,
            ids.tolist(),
            scores[:number].tolist(),
            because,
        )

    def _because(self, number, rows, seen, user) -> list:
        if not number or seen is None:
            return []
        return self._likeness.nearest(rows[rows >= 0], seen[user], number)

    def _longest_seen(self) -> int:
        histories = self.model.histories
        if histories is None:
            return 0
        lengths = histories.lengths(np.arange(histories.num_users))
        return int(lengths.max(initial=0))


def _input_widths(model, most: int) -> list[int]:
    """Widths of the histories that go into the tower."""
    sizes = shapes.widths(most)
    reader = history_tower(model.user_tower)
    if reader is None or reader.max_length is None:
        return sizes
    longest = reader.max_length
    return [size for size in sizes if size < longest] + [longest]


def _encoder(model):
    """`model.user_vectors`, compiled where the backend compiles."""
    if keras.backend.backend() != "jax":
        return model.user_vectors
    from keras_dp_retrieval._jax.compiled_reads import compiled

    return compiled(model, model.user_vectors)


def _vector_answers(sources, unknown, vectors) -> list[Answer]:
    if vectors is not None:
        vectors = keras.ops.convert_to_numpy(vectors)
    return [
        Answer(
            source,
            num_unknown,
            vector=None if source == POPULAR else vectors[n],
        )
        for n, (source, num_unknown) in enumerate(
            zip(sources, unknown, strict=True)
        )
    ]


def _shortened(answer: Answer, question) -> Answer:
    """An answer of a batch as one of its questions asked for it."""
    return dataclasses.replace(
        answer,
        ids=answer.ids[: question.k],
        scores=answer.scores[: question.k],
        because=[near[: question.explain] for near in answer.because][
            : question.k
        ]
        if question.explain
        else [],
    )
