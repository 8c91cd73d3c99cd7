"""Recommending: raw ids in, raw ids and scores out."""

import functools

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval._keras.layers import added_losses
from keras_dp_retrieval.data.padding import PADDING
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
from keras_dp_retrieval.model.popular import popular_search
from keras_dp_retrieval.model.request_users import POPULAR, users_of
from keras_dp_retrieval.model.row_lists import joined, padded, parts_of
from keras_dp_retrieval.training.finite import check_vectors

# Users ranked, and candidates encoded, at a time: with the chunks of `top_k`,
# what bounds the memory. Where lists of what users have seen, padded to the
# longest, would take more room than the scores, there are fewer users.
USERS_PER_CHUNK = 1024
CANDIDATES_PER_CHUNK = DEFAULT_CHUNK_SIZE


def recommend(
    model,
    user_ids,
    k,
    exclude_seen,
    histories,
    exclude,
    user_features=None,
    allowed_ids=None,
    unknown="raise",
    return_info=False,
):
    """What `TwoTowerRetrieval.recommend` says."""
    k = check_k(k, model.num_candidates)
    _checks.one_of("exclude_seen", exclude_seen, (True, False))
    _checks.flag("return_info", return_info)
    users = users_of(model, user_ids, histories, user_features, unknown)
    also_excluded = _excluded(model, exclude, len(users))
    allowed = _allowed(model, allowed_ids, unknown)
    search = _Search(model, allowed, allowed_ids is not None)
    found = []
    lengths = users.lengths()
    if also_excluded:
        lengths = lengths + [len(rows) for rows in also_excluded]
    for part in _parts_of_users(lengths):
        excluded_rows = joined(
            users.seen(part) if exclude_seen else None,
            padded(also_excluded[part]) if len(also_excluded) else None,
        )
        found.append(search(users, part, k, excluded_rows))
    ids, scores = map(np.concatenate, zip(*found, strict=True))
    if not return_info:
        return ids, scores
    info = {"source": users.sources, "num_unknown": users.num_unknown}
    return ids, scores, info


def encode_users(model, user_ids, histories, user_features=None) -> np.ndarray:
    """What `TwoTowerRetrieval.encode_users` says."""
    users = users_of(model, user_ids, histories, user_features)
    return _joined(users.vectors, len(users), _parts_of_users(users.lengths()))


def encode_candidates(model, candidate_ids) -> np.ndarray:
    """What `TwoTowerRetrieval.encode_candidates` says."""
    if candidate_ids is None:
        rows = retrievable_rows(model)
    else:
        rows = id_rows.candidate_rows(model, candidate_ids)
    return _joined(
        lambda part: model.candidate_vectors(rows[part]),
        len(rows),
        _parts(len(rows), CANDIDATES_PER_CHUNK),
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


class _Search:
    """A search for users of each kind; what one needs is made when it is used.

    Args:
        model: `TwoTowerRetrieval`.
        allowed: bool `(num_candidates,)`. Others are in no list.
        is_narrowed: bool. Whether those are fewer than the retrievable ones.
    """

    def __init__(self, model, allowed, is_narrowed):
        self._model, self._allowed = model, allowed
        self._is_narrowed = is_narrowed

    def __call__(self, users, part, k, excluded_rows):
        """Returns `(ids, scores)` of some users, `(part, k)` each."""
        is_popular = users.sources[part] == POPULAR
        if is_popular.all() and len(is_popular):
            return self._of_popular(len(is_popular), k, excluded_rows)
        vectors = users.vectors(part)
        check_vectors("user", vectors)
        found = self._of_vectors(vectors, k, excluded_rows)
        if not is_popular.any():
            return found
        popular = self._of_popular(len(is_popular), k, excluded_rows)
        return tuple(
            np.where(is_popular[:, None], one, other)
            for one, other in zip(popular, found, strict=True)
        )

    @functools.cached_property
    def _of_popular(self):
        return popular_search(self._model, self._allowed)

    @functools.cached_property
    def _of_vectors(self):
        index = self._model.candidate_index
        if not index:
            return _tower_search(self._model, self._allowed)
        allowed = self._allowed if self._is_narrowed else None
        return _index_search(self._model, index, allowed)


def _tower_search(model, allowed):
    """Returns a search in the candidate tower's present vectors.

    That is a function `(vectors, k, excluded_rows) -> (ids, scores)`, where
    `excluded_rows` are None or int `(batch, length)`, padded with -1.
    """
    candidates = model.candidate_vectors()
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


def _index_search(model, index, allowed):
    """Returns a search like that of `_tower_search` in a `CandidateIndex`.

    Args:
        model: `TwoTowerRetrieval`.
        index: `CandidateIndex`.
        allowed: Optional bool `(num_candidates,)`.
    """
    allowed_ids = None
    if allowed is not None:
        allowed_ids = id_rows.candidate_ids(model, np.flatnonzero(allowed))
        if len(allowed_ids):
            allowed_ids = allowed_ids[index.rows(allowed_ids) >= 0]

    def search(vectors, k, excluded_rows):
        if excluded_rows is not None:
            excluded_rows = _rows_in_index(model, index, excluded_rows)
        return index.search(
            vectors, k, excluded_rows=excluded_rows, allowed_ids=allowed_ids
        )

    return search


def _allowed(model, allowed_ids, unknown) -> np.ndarray:
    """Who may be recommended at all, bool `(num_candidates,)`."""
    rows = retrievable_rows(model)
    if allowed_ids is not None:
        rows_of = id_rows.candidate_rows
        if unknown == POPULAR:
            rows_of = id_rows.known_candidate_rows
        if not _checks.is_listed(allowed_ids):
            raise ValueError(
                "`allowed_ids` must be a list or an array of candidate ids. "
                f"Received: {_checks.shown(allowed_ids):.80}."
            )
        rows = np.intersect1d(rows, rows_of(model, allowed_ids))
    allowed = np.zeros(model.num_candidates, bool)
    allowed[rows] = True
    return allowed


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
    return [id_rows.known_candidate_rows(model, ids) for ids in lists]


def _parts(length, size) -> list[slice]:
    """Slices of up to `size`; one also of nothing, for the result's shape."""
    return [
        slice(start, start + size) for start in range(0, max(length, 1), size)
    ]


def _parts_of_users(lengths) -> list[slice]:
    """The same of users, by how many items each has seen."""
    room = USERS_PER_CHUNK * CANDIDATES_PER_CHUNK
    return list(parts_of(lengths, USERS_PER_CHUNK, room))


def _joined(encode, length, parts) -> np.ndarray:
    """All of `encode(slice)`, float32 `(length, dim)`, part by part."""
    for part in parts:
        chunk = ops.convert_to_numpy(encode(part))
        if part is parts[0]:
            vectors = np.empty((length, chunk.shape[1]), "float32")
        vectors[part] = chunk
    return vectors
