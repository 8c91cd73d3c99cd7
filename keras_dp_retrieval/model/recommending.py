"""Recommending: raw ids in, raw ids and scores out."""

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval._keras.layers import added_losses
from keras_dp_retrieval.data.padding import PADDING, next_power_of_two
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
from keras_dp_retrieval.model.request_users import padded, users_of
from keras_dp_retrieval.training.finite import check_vectors

# Users ranked, and candidates encoded, at a time: with the chunks of `top_k`,
# what bounds the memory.
USERS_PER_CHUNK = 1024
CANDIDATES_PER_CHUNK = DEFAULT_CHUNK_SIZE


def recommend(
    model, user_ids, k, exclude_seen, histories, exclude, user_features=None
):
    """What `TwoTowerRetrieval.recommend` says."""
    k = check_k(k, model.num_candidates)
    _checks.one_of("exclude_seen", exclude_seen, (True, False))
    users = users_of(model, user_ids, histories, user_features)
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


def encode_users(model, user_ids, histories, user_features=None) -> np.ndarray:
    """What `TwoTowerRetrieval.encode_users` says."""
    users = users_of(model, user_ids, histories, user_features)
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
    more = padded(also_excluded)
    if seen is None:
        return more
    width = next_power_of_two(seen.shape[1] + more.shape[1])
    joined = np.full((len(seen), width), PADDING, "int32")
    joined[:, : seen.shape[1]] = seen
    joined[:, seen.shape[1] : seen.shape[1] + more.shape[1]] = more
    return joined


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
