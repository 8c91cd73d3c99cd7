"""Recommending: raw ids in, raw ids and scores out."""

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval._keras.layers import added_losses
from keras_dp_retrieval.data.padding import (
    PADDING,
    next_power_of_two,
    pad_lists,
)
from keras_dp_retrieval.index import CandidateIndex
from keras_dp_retrieval.index.exact import (
    DEFAULT_CHUNK_SIZE,
    check_k,
    top_k,
    top_k_by_sorting,
)
from keras_dp_retrieval.model import encoding, id_rows
from keras_dp_retrieval.model.candidate_states import (
    retrievable,
    retrievable_rows,
)
from keras_dp_retrieval.towers import HistoryTower
from keras_dp_retrieval.training.finite import check_vectors

# Users ranked, and candidates encoded, at a time: with the chunks of `top_k`,
# what bounds the memory.
USERS_PER_CHUNK = 1024
CANDIDATES_PER_CHUNK = DEFAULT_CHUNK_SIZE


def recommend(model, user_ids, k, exclude_seen, histories, exclude):
    """What `TwoTowerRetrieval.recommend` says."""
    k = check_k(k, model.num_candidates)
    _checks.one_of("exclude_seen", exclude_seen, (True, False))
    users = _users(model, user_ids, histories)
    also_excluded = _excluded(model, exclude, len(users))
    index = model.candidate_index
    search = _index_search(model, index) if index else _tower_search(model)
    found = []
    for part in _parts(len(users), USERS_PER_CHUNK):
        vectors = model.user_vectors(users.inputs(part))
        check_vectors("user", vectors)
        excluded_rows = _joined(
            users.seen(part) if exclude_seen else None, also_excluded[part]
        )
        found.append(search(vectors, k, excluded_rows))
    ids, scores = map(np.concatenate, zip(*found, strict=True))
    return ids, scores


def encode_users(model, user_ids, histories) -> np.ndarray:
    """What `TwoTowerRetrieval.encode_users` says."""
    users = _users(model, user_ids, histories)
    return _in_chunks(
        lambda part: model.user_vectors(users.inputs(part)),
        len(users),
        USERS_PER_CHUNK,
    )


def encode_candidates(model, candidate_ids) -> np.ndarray:
    """What `TwoTowerRetrieval.encode_candidates` says."""
    if candidate_ids is None:
        rows = retrievable_rows(model)
    else:
        rows = id_rows.candidate_rows(model, candidate_ids)
    return _in_chunks(
        lambda part: model.candidate_vectors(rows[part]),
        len(rows),
        CANDIDATES_PER_CHUNK,
    )


def build_index(model, **kwargs) -> CandidateIndex:
    """An index of all candidates' present vectors."""
    return CandidateIndex.from_vectors(
        model.retrievable_ids(), model.encode_candidates(), **kwargs
    )


def best_rows(model, user_vectors, *, exported):
    """What `TwoTowerRetrieval.call` returns as `"predictions"`.

    Args:
        model: `TwoTowerRetrieval`.
        user_vectors: `(batch, dim)`, without the bias coordinate.
        exported: bool. Whether it is traced for another runtime.

    Returns:
        int tensor `(batch, model.k)` of table rows.
    """
    # What the candidate tower adds to the loss is counted where the loss is
    # computed; this pass is not part of it.
    with added_losses(model.candidate_tower):
        candidates = model.candidate_vectors()
    vectors = encoding.append_user_bias(model, user_vectors)
    allowed = retrievable(model)
    if exported and keras.backend.backend() == "jax":
        return top_k_by_sorting(vectors, candidates, model.k, allowed=allowed)
    return top_k(vectors, candidates, model.k, allowed=allowed)[1]


def _tower_search(model):
    """Returns a search in the candidate tower's present vectors.

    That is a function `(vectors, k, excluded_rows) -> (ids, scores)`, where
    `excluded_rows` are None or int `(batch, length)`, padded with -1.
    """
    candidates = model.candidate_vectors()
    allowed = np.zeros(model.num_candidates, bool)
    allowed[retrievable_rows(model)] = True
    check_vectors("candidate", candidates, allowed)

    def search(vectors, k, excluded_rows):
        scores, rows = top_k(
            vectors,
            candidates,
            k,
            excluded_rows=excluded_rows,
            allowed=allowed,
        )
        ids = id_rows.candidate_ids(model, ops.convert_to_numpy(rows))
        return ids, ops.convert_to_numpy(scores)

    return search


def _index_search(model, index):
    """Returns a search like that of `_tower_search` in a `CandidateIndex`."""

    def search(vectors, k, excluded_rows):
        if excluded_rows is not None:
            excluded_rows = _rows_in_index(model, index, excluded_rows)
        return index.search(vectors, k, excluded_rows=excluded_rows)

    return search


def _rows_in_index(model, index, table_rows) -> np.ndarray:
    """Where the candidates of table rows stand in an index; -1 if nowhere."""
    # Each once: users have the same few in common.
    rows, inverse = np.unique(table_rows, return_inverse=True)
    first = 0 if model.candidate_vocabulary is None else 1
    known = rows >= first
    in_index = np.full(len(rows), PADDING, "int32")
    in_index[known] = index.rows(id_rows.candidate_ids(model, rows[known]))
    return in_index[inverse].reshape(table_rows.shape)


def _users(model, user_ids, histories) -> "_Users":
    """The users of a question, by their ids or by their histories."""
    if (user_ids is None) == (histories is None):
        raise ValueError(
            "Give either `user_ids` or `histories`. Received: "
            f"{'neither' if user_ids is None else 'both'}."
        )
    if histories is None:
        return _KnownUsers(id_rows.user_rows(model, user_ids), model.histories)
    if not isinstance(model.user_tower, HistoryTower):
        raise ValueError(
            "`histories` need a user tower that takes them, such as "
            "`IdHistoryTower` or `RecencyTower`. Received: "
            f"{type(model.user_tower).__name__}."
        )
    is_lists = _checks.is_listed(histories) and len(histories)
    if not is_lists or not all(map(_checks.is_listed, histories)):
        raise ValueError(
            "`histories` must be a list of lists of candidate ids, such "
            "as [[50, 172, 181]], one for each user. Received: "
            f"{_checks.shown(histories):.80}."
        )
    return _NewUsers(
        [id_rows.candidate_rows(model, history) for history in histories],
        model.user_tower.max_length,
    )


def _excluded(model, exclude, num_users) -> list[np.ndarray]:
    """Rows of the candidates to leave out for each user; [] without any."""
    if exclude is None:
        return []
    lists = list(exclude) if _checks.is_listed(exclude) else None
    if (
        lists is None
        or len(lists) != num_users
        or not all(map(_checks.is_listed, lists))
    ):
        raise ValueError(
            "`exclude` must be a list of lists of candidate ids, one for each "
            f"of the {num_users} users. Received: "
            f"{_checks.shown(exclude):.80}."
        )
    return [id_rows.candidate_rows_or_zero(model, ids) for ids in lists]


def _joined(seen, also_excluded) -> np.ndarray | None:
    """Two lists of rows to leave out for each user as one, or None."""
    if not len(also_excluded):
        return seen
    more = _padded(also_excluded)
    if seen is None:
        return more
    width = next_power_of_two(seen.shape[1] + more.shape[1])
    joined = np.full((len(seen), width), PADDING, "int32")
    joined[:, : seen.shape[1]] = seen
    joined[:, seen.shape[1] : seen.shape[1] + more.shape[1]] = more
    return joined


class _KnownUsers:
    """Users whom the model has rows for, and their seen items.

    Args:
        rows: int32 `(batch,)`.
        histories: Optional `Histories`.
    """

    def __init__(self, rows, histories):
        self._rows = rows
        self._histories = histories

    def __len__(self):
        return len(self._rows)

    def inputs(self, part: slice) -> np.ndarray:
        """The inputs of the user tower, `(part, ...)`."""
        return self._rows[part]

    def seen(self, part: slice) -> np.ndarray | None:
        """Their seen items, `(part, longest)` rows, padded with -1."""
        if self._histories is None:
            return None
        return self._histories.padded(self._rows[part])


class _NewUsers:
    """The same of users who are known by their histories alone.

    Args:
        histories: int32 arrays of candidate rows, oldest first.
        max_length: Optional int. How many of the latest go into the tower.
    """

    def __init__(self, histories, max_length):
        self._histories = histories
        self._max_length = max_length

    def __len__(self):
        return len(self._histories)

    def inputs(self, part: slice) -> np.ndarray:
        latest = -(self._max_length or 0)
        return _padded(
            [rows[latest:] for rows in self._histories[part]],
            self._max_length,
        )

    def seen(self, part: slice) -> np.ndarray:
        return _padded(self._histories[part])


_Users = _KnownUsers | _NewUsers


def _padded(lists, most=None) -> np.ndarray:
    """int32 `(batch, longest)`, padded with -1.

    `longest` is rounded up to a power of two, or to `most`, so that few shapes
    occur.
    """
    width = next_power_of_two(max(map(len, lists)))
    width = width if most is None else min(width, most)
    return pad_lists(lists, width)


def _parts(length, size) -> list[slice]:
    """Slices of up to `size`; one also of nothing, for the result's shape."""
    return [
        slice(start, start + size) for start in range(0, max(length, 1), size)
    ]


def _in_chunks(encode, length, size) -> np.ndarray:
    """All of `encode(slice)`, float32 `(length, dim)`, `size` at a time."""
    parts = _parts(length, size)
    for part in parts:
        chunk = ops.convert_to_numpy(encode(part))
        if part is parts[0]:
            vectors = np.empty((length, chunk.shape[1]), "float32")
        vectors[part] = chunk
    return vectors
