"""Recommending: raw ids in, raw ids and scores out."""

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval._keras.layers import added_losses
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
from keras_dp_retrieval.model.request_users import users_of
from keras_dp_retrieval.model.row_lists import parts_of
from keras_dp_retrieval.model.searches import Restrictions, Search

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
    filters=None,
    index=None,
):
    """What `TwoTowerRetrieval.recommend` says."""
    k = check_k(k, model.num_candidates)
    _checks.one_of("exclude_seen", exclude_seen, (True, False))
    _checks.flag("return_info", return_info)
    users = users_of(model, user_ids, histories, user_features, unknown)
    restrictions = Restrictions(
        model, len(users), exclude, allowed_ids, filters, unknown
    )
    search = Search(model, restrictions, _checked_index(model, index))
    lengths = users.lengths()
    if restrictions.exclude is not None:
        lengths = lengths + [len(ids) for ids in restrictions.exclude]
    found = [
        search(users, part, k, exclude_seen)
        for part in _parts_of_users(lengths)
    ]
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


def _checked_index(model, index):
    """The index that is given, or else the model's own, or None."""
    if index is None:
        return model.candidate_index
    if not hasattr(index, "catalogue"):
        raise ValueError(
            "`index` must be a `CandidateIndex` or a `FaissIndex`. Received: "
            f"a {type(index).__name__}."
        )
    return index


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
