"""Ranks users: from vectors to the rows of the best candidates."""

from collections.abc import Callable

import keras
import numpy as np

from keras_dp_retrieval import distribution
from keras_dp_retrieval.index import chunks
from keras_dp_retrieval.metrics.protocol import check_shapes
from keras_dp_retrieval.training.finite import check_vectors


def best_rows(
    user_vectors, candidate_vectors, excluded_rows, allowed, *, k, chunk_size
):
    """The rows of the best `k` candidates of each user, -1 where none is."""
    _, rows = chunks.best_of_rows(
        user_vectors,
        candidate_vectors,
        excluded_rows,
        allowed,
        candidate_scales=None,
        first_row=0,
        num_rows=candidate_vectors.shape[0],
        k=k,
        chunk_size=chunk_size,
    )
    return rows


def make_ranker(
    encode_users,
    candidate_vectors,
    allowed,
    *,
    num_candidates: int,
    k: int,
    chunk_size: int,
) -> Callable:
    """Returns `rank(user_rows, excluded_rows)` -> rows, NumPy in and out.

    `user_rows` are those of all processes, `excluded_rows` and the result
    those of this process.

    Args:
        encode_users: Function from user rows to `(batch, dim)`.
        candidate_vectors: Floats `(num_rows, dim)`, one row a candidate row.
        allowed: bool `(num_candidates,)`. Which rows a list may hold.
        num_candidates: int. Candidate rows of the data.
        k: int. Length of the lists.
        chunk_size: int. Candidates scored at a time.

    Raises:
        ValueError: If there are fewer vectors than candidate rows, or some
            are NaN or infinite.
    """
    candidates = keras.ops.convert_to_tensor(candidate_vectors)
    num_rows = int(candidates.shape[0]) if candidates.shape else 0
    if num_rows < num_candidates:
        raise ValueError(
            "The model must have a vector for every candidate of the data. "
            f"Received: {num_rows} candidate vectors for "
            f"{num_candidates} rows."
        )
    allowed = np.pad(allowed, (0, num_rows - num_candidates))
    options = {"k": k, "chunk_size": min(chunk_size, num_rows)}

    def vectors_of_users(user_rows):
        vectors = keras.ops.convert_to_tensor(encode_users(user_rows))
        check_shapes(vectors, candidates, len(user_rows))
        return vectors

    if keras.backend.backend() == "jax":
        return _sharded_ranker(vectors_of_users, candidates, allowed, options)
    check_vectors("candidate", candidates, allowed)
    usable = keras.ops.convert_to_tensor(allowed)

    def rank(user_rows, excluded_rows):
        vectors = vectors_of_users(user_rows)
        check_vectors("user", vectors)
        excluded = keras.ops.convert_to_tensor(excluded_rows)
        rows = best_rows(vectors, candidates, excluded, usable, **options)
        return keras.ops.convert_to_numpy(rows)

    return rank


def _sharded_ranker(encode_users, candidates, allowed, options) -> Callable:
    """A ranker that shards this process's users over its devices."""
    from keras_dp_retrieval._jax import ranking
    from keras_dp_retrieval._jax.replication import replicate

    strategy = keras.distribution.distribution()
    mesh = ranking.local_mesh(strategy and strategy.device_mesh)
    program = ranking.compiled_ranker(best_rows, mesh, **options)
    candidates = ranking.local_copy(candidates)
    check_vectors("candidate", candidates, allowed)
    candidates, allowed = replicate((candidates, allowed), mesh)

    def rank(user_rows, excluded_rows):
        # Every process computes the vectors of all users of the chunk: the
        # model may be one program over all processes, so they call it alike.
        vectors = ranking.local_copy(encode_users(user_rows))
        check_vectors("user", vectors)
        if len(excluded_rows) < len(user_rows):
            vectors = vectors[distribution.process_rows(len(user_rows))]
        rows = program(
            ranking.shard_rows(vectors, mesh),
            candidates,
            ranking.shard_rows(excluded_rows, mesh),
            allowed,
        )
        return np.asarray(rows)

    return rank
