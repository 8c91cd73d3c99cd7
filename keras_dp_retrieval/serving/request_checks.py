"""Whether a question fits the limits and the model, before it waits."""

from keras_dp_retrieval.serving.errors import RequestError
from keras_dp_retrieval.serving.questions import Question
from keras_dp_retrieval.serving.request_limits import Limits
from keras_dp_retrieval.towers import history_tower


def check(question: Question, limits: Limits, model) -> None:
    """Raises a `RequestError` that says what is wrong, if anything is."""
    given = [
        values
        for values in (
            question.user_ids,
            question.histories,
            question.exclude,
            *(question.user_features or {}).values(),
        )
        if values is not None
    ]
    is_asked = (
        question.user_ids is not None
        or question.histories is not None
        or bool(question.user_features)
    )
    if not is_asked or len(question) < 1:
        _refuse("ask for `user_ids`, `histories` or `user_features`")
    if len({len(values) for values in given}) > 1:
        _refuse(
            "`user_ids`, `histories`, `exclude` and each of `user_features` "
            "must be of one length"
        )
    _at_most("users", len(question), limits.users)
    _at_most("k", question.k, limits.k)
    _at_most("allowed_ids", len(question.allowed_ids or ()), limits.allowed)
    for lists in (question.histories, question.exclude):
        for one in lists or ():
            _at_most("history or exclude", len(one), limits.history)
    if question.histories is not None and (
        history_tower(model.user_tower) is None
    ):
        _refuse("this model takes no `histories`")
    if question.user_features is not None and model.user_features is None:
        _refuse("this model takes no `user_features`")
    if question.filters is not None and model.candidate_features is None:
        _refuse("this model knows no features of candidates for `filters`")
    _check_kind("user", question.user_ids, model.user_vocabulary)
    for ids in (
        question.allowed_ids,
        *(question.histories or ()),
        *(question.exclude or ()),
    ):
        _check_kind("candidate", ids, model.candidate_vocabulary)


def _check_kind(role: str, ids, vocabulary) -> None:
    is_text = vocabulary is not None and vocabulary.ids.dtype.kind == "U"
    kind = str if is_text else int
    for one in ids or ():
        if not isinstance(one, kind):
            _refuse(
                f"{role} ids of this model are "
                f"{'strings' if is_text else 'whole numbers'}"
            )


def _at_most(name: str, number: int, most: int) -> None:
    if number > most:
        _refuse(f"{name}: {most:,} at most, not {number:,}")


def _refuse(message: str) -> None:
    raise RequestError(422, message[0].upper() + message[1:] + ".")
