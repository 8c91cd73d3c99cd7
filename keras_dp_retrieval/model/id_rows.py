"""From ids to table rows and back, and whether rows are in their tables.

Without a vocabulary, an id is the row of its table.
"""

import numpy as np
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.columns import id_column
from keras_dp_retrieval.data.padding import PADDING


def user_rows(model, user_ids) -> np.ndarray:
    """Table rows of users, int32 `(batch,)`.

    Args:
        model: `TwoTowerRetrieval`.
        user_ids: A list or array of ids, `(batch,)`.

    Raises:
        ValueError: If an id is not known to the model.
    """
    return _rows("user", user_ids, model.user_vocabulary, model.num_users)


def candidate_rows(model, candidate_ids) -> np.ndarray:
    """Table rows of candidates, int32 `(batch,)`; errors as for users."""
    return _rows(
        "candidate",
        candidate_ids,
        model.candidate_vocabulary,
        model.num_candidates,
    )


def known_user_rows(model, user_ids) -> tuple[np.ndarray, np.ndarray]:
    """Table rows of users, some of whom may be unknown.

    Args:
        model: `TwoTowerRetrieval`.
        user_ids: A list or array of ids, `(batch,)`.

    Returns:
        `(rows, is_known)`: int32 and bool `(batch,)`. Unknown ids have row 0.

    Raises:
        ValueError: If they are no ids, or of another kind than the model's.
    """
    return _found("user", user_ids, model.user_vocabulary, model.num_users)


def known_candidate_rows(model, candidate_ids) -> np.ndarray:
    """Table rows of the candidates that are known, int32 `(num_known,)`."""
    rows, is_known = _candidates(model, candidate_ids)
    return rows[is_known]


def known_candidates(model, candidate_ids) -> np.ndarray:
    """Which candidates are known, bool `(batch,)`."""
    return _candidates(model, candidate_ids)[1]


def _candidates(model, candidate_ids):
    if not len(candidate_ids):
        return np.zeros(0, "int32"), np.zeros(0, bool)
    return _found(
        "candidate",
        candidate_ids,
        model.candidate_vocabulary,
        model.num_candidates,
    )


def candidate_ids(model, rows) -> np.ndarray:
    """Ids of table rows, of the same shape; -1 or `""` for the row -1."""
    if model.candidate_vocabulary is None:
        return rows
    return model.candidate_vocabulary.raw_ids(rows)


def check_rows(role, rows, num_rows, *, padded=False):
    """Raises unless `rows` are whole numbers from 0 to `num_rows` - 1.

    JAX answers a row that is too large with NaN and a negative one with some
    other row.

    Args:
        role: `"user"` or `"candidate"`, for the message.
        rows: Array of any shape.
        num_rows: int.
        padded: bool. Whether -1, the padding of lists, is allowed, too.
    """
    rows = np.asarray(rows)
    _check_whole_numbers(role, rows)
    lowest = PADDING if padded else 0
    if rows.size and (rows.min() < lowest or rows.max() >= num_rows):
        wrong = rows[(rows < lowest) | (rows >= num_rows)]
        raise ValueError(
            f"{role.capitalize()} ids must be from 0 to {num_rows - 1} "
            f"(`num_{role}s` - 1). Received: {wrong[0]}, and "
            f"{wrong.size - 1} more outside. For ids 1 to n, "
            f"`num_{role}s` is n + 1."
        )


def _check_whole_numbers(role, rows):
    if rows.dtype.kind not in "iu":
        raise ValueError(
            f"{role.capitalize()} ids must be whole numbers. Received: an "
            f"array of {rows.dtype}. A model made with "
            "`TwoTowerRetrieval.for_dataset` knows ids of other kinds."
        )


def _rows(role, ids, vocabulary, num_rows) -> np.ndarray:
    """Table rows of ids that are all known."""
    rows, is_known = _found(role, ids, vocabulary, num_rows)
    if is_known.all():
        return rows
    ids = _as_listed(role, ids)
    if vocabulary is None:
        check_rows(role, id_column(f"{role}_ids", ids), num_rows)  # Raises.
    unknown = np.asarray(ids)[~is_known]
    raise ValueError(
        f"{role.capitalize()} ids must be known to the model. Received: "
        f"{_checks.shown(unknown[0])}, and {unknown.size - 1} more "
        f"unknown. It knows {len(vocabulary.ids)} {role}s, such as "
        f"{_checks.shown(vocabulary.ids[0])}. With `unknown='popular'`, "
        "`recommend` takes unknown ids, too."
    )


def _found(role, ids, vocabulary, num_rows) -> tuple[np.ndarray, np.ndarray]:
    """Rows, 0 for unknown ids, and which ids are known."""
    ids = _as_listed(role, ids)
    if vocabulary is None:
        ids = id_column(f"{role}_ids", ids)
        _check_whole_numbers(role, ids)
        is_known = (ids >= 0) & (ids < num_rows)
        return np.where(is_known, ids, 0).astype("int32"), is_known
    rows = vocabulary.rows(ids)
    if rows.ndim != 1:
        raise ValueError(
            f"{role.capitalize()} ids must have the shape `(batch,)`. "
            f"Received: an array of shape {rows.shape}."
        )
    return rows, rows > 0


def _as_listed(role, ids):
    if ops.is_tensor(ids):
        ids = ops.convert_to_numpy(ids)
    if not _checks.is_listed(ids):
        raise ValueError(
            f"{role.capitalize()} ids must be a list or an array, `(batch,)`. "
            f"Received: a {type(ids).__name__}, {_checks.shown(ids):.80}."
        )
    return ids
