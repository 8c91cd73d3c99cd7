"""Exact top-k of dot products: whole or in chunks, on one device or many."""

import keras
from keras import ops

from keras_dp_retrieval import _checks, distribution

# Candidates scored at a time unless the caller says otherwise. On one CPU core
# 1M x 64 candidates took the same time in chunks of 4,096 to 65,536; this many
# scores of 64 queries are 4 MB, which is about a core's share of the cache.
DEFAULT_CHUNK_SIZE = 16_384


def top_k(
    query_vectors,
    candidate_vectors,
    k: int,
    *,
    excluded_rows=None,
    allowed=None,
    chunk_size: int | None = None,
):
    """The `k` candidates with the largest dot product with each query.

    Exact: every candidate is scored, and the result is that of a full sort by
    falling score, equal scores by rising row. The candidates are scored in
    chunks, so that beyond its arguments the call needs memory for
    `batch x chunk_size` scores however long the catalogue is. Where a
    `keras.distribution.DataParallel` is in force, each device searches its
    share of the catalogue and the devices' best are merged: the same result.

    A score of NaN or minus infinity is not a score: that candidate is never
    returned. No gradient flows through the result.

    Args:
        query_vectors: Floating point, shape `(batch, dim)`.
        candidate_vectors: Floating point, shape `(num_candidates, dim)`.
            Scores are computed in float32 whatever the type.
        k: int. May exceed the number of candidates.
        excluded_rows: Optional integers, shape `(batch, num_excluded)`: rows
            never to be returned for that query, padded with -1.
        allowed: Optional booleans, shape `(num_candidates,)`: rows with False
            are returned for no query.
        chunk_size: Optional int. Candidates scored at a time, 16,384 by
            default. It need not divide the number of candidates.

    Returns:
        `(scores, rows)`, float32 and int32, each of shape `(batch, k)`, best
        first. Where fewer than `k` candidates are left, the rest has score
        minus infinity and row -1.

    Raises:
        ValueError: If shapes do not fit together, or `k` or `chunk_size` is
            not a whole number of 1 or more.
    """
    k = _checks.positive_int("k", k)
    query_vectors = _as_float32(query_vectors)
    candidate_vectors = ops.convert_to_tensor(candidate_vectors)
    if excluded_rows is not None:
        excluded_rows = ops.cast(excluded_rows, "int32")
    if allowed is not None:
        allowed = ops.cast(allowed, "bool")
    _check_shapes(query_vectors, candidate_vectors, excluded_rows, allowed)
    num_candidates = candidate_vectors.shape[0]
    chunk_size = _checks.positive_int(
        "chunk_size", DEFAULT_CHUNK_SIZE if chunk_size is None else chunk_size
    )
    options = {"k": k, "chunk_size": min(chunk_size, max(num_candidates, 1))}
    arrays = (query_vectors, candidate_vectors, excluded_rows, allowed)
    if keras.backend.backend() != "jax":
        return best_of_rows(*arrays, 0, num_candidates, **options)
    from keras_dp_retrieval._jax import topk

    return topk.run(best_of_rows, arrays, options, *_mesh_and_axis())


def best_of_rows(
    query_vectors,
    candidate_vectors,
    excluded_rows,
    allowed,
    first_row,
    num_rows: int,
    *,
    k: int,
    chunk_size: int,
):
    """`top_k` among the `num_rows` candidates from `first_row` on.

    Rows past the end of the catalogue are not there. `first_row` may be a
    traced number: it is how a device takes its share.
    """
    num_candidates = candidate_vectors.shape[0]
    chunk_size = min(chunk_size, num_rows, num_candidates)
    batch = ops.shape(query_vectors)[0]
    best = (
        ops.full((batch, k), -float("inf"), dtype="float32"),
        ops.full((batch, k), -1, dtype="int32"),
    )
    if not chunk_size:
        return best
    end = ops.minimum(first_row + num_rows, num_candidates)

    def merge_chunk(number, best):
        chunk_first = first_row + number * chunk_size
        # The last chunk starts early rather than reach past the end, and
        # leaves out what the chunk before it has had.
        start = ops.minimum(chunk_first, num_candidates - chunk_size)
        rows = start + ops.arange(chunk_size, dtype="int32")
        wanted = ops.logical_and(rows >= chunk_first, rows < end)
        if allowed is not None:
            wanted = ops.logical_and(
                wanted, ops.slice(allowed, [start], [chunk_size])
            )
        scores = ops.matmul(
            query_vectors,
            ops.transpose(
                _rows_as_float32(candidate_vectors, start, chunk_size)
            ),
        )
        scores = ops.where(
            wanted[None] & (scores > -float("inf")), scores, -float("inf")
        )
        if excluded_rows is not None:
            scores = _mask_excluded(scores, excluded_rows - start)
        scores, columns = _stable_top_k(scores, min(k, chunk_size))
        # The best so far have the lower rows, so they go first.
        scores = ops.concatenate([best[0], scores], axis=1)
        rows = ops.concatenate([best[1], columns + start], axis=1)
        scores, columns = _stable_top_k(scores, k)
        return scores, ops.take_along_axis(rows, columns, axis=1)

    num_chunks = -(-num_rows // chunk_size)
    scores, rows = ops.fori_loop(0, num_chunks, merge_chunk, best)
    return scores, ops.where(scores > -float("inf"), rows, -1)


def _rows_as_float32(vectors, start, num_rows):
    rows = ops.slice(vectors, [start, 0], [num_rows, vectors.shape[1]])
    return ops.cast(rows, "float32")


def _mask_excluded(scores, columns):
    """Minus infinity in `columns`, `(batch, m)`; those outside do nothing."""
    inside = ops.logical_and(columns >= 0, columns < scores.shape[1])
    queries = ops.broadcast_to(
        ops.arange(ops.shape(columns)[0], dtype="int32")[:, None],
        ops.shape(columns),
    )
    # A minimum, since the ones outside share column 0 with a real one.
    return ops.scatter_update(
        scores,
        ops.reshape(
            ops.stack([queries, ops.where(inside, columns, 0)], -1), (-1, 2)
        ),
        ops.reshape(ops.where(inside, -float("inf"), float("inf")), (-1,)),
        reduction="min",
    )


def _stable_top_k(scores, k):
    """`ops.top_k` with ties by the lower column on every backend."""
    if keras.backend.backend() in ("jax", "tensorflow"):
        scores, columns = ops.top_k(scores, k)
        return scores, ops.cast(columns, "int32")
    # `torch.topk` and the NumPy backend's give tied columns in any order.
    columns = ops.argsort(-scores, axis=-1)[:, :k]
    return ops.take_along_axis(scores, columns, axis=1), columns


def _as_float32(vectors):
    return ops.cast(ops.convert_to_tensor(vectors), "float32")


def _mesh_and_axis():
    """The jax mesh and the axis a batch is divided on; None for one device."""
    if distribution.num_devices() == 1:
        return None, None
    in_force = keras.distribution.distribution()
    return in_force.device_mesh.backend_mesh, in_force.batch_dim_name


def _check_shapes(query_vectors, candidate_vectors, excluded_rows, allowed):
    shapes = query_vectors.shape, candidate_vectors.shape
    if any(len(shape) != 2 for shape in shapes) or (
        shapes[0][1] != shapes[1][1]
    ):
        raise ValueError(
            "`query_vectors` must have the shape (batch, dim) and "
            "`candidate_vectors` (num_candidates, dim), with the same dim. "
            f"Received: {tuple(shapes[0])} and {tuple(shapes[1])}."
        )
    if excluded_rows is not None and (
        len(excluded_rows.shape) != 2
        or excluded_rows.shape[0] != query_vectors.shape[0]
    ):
        raise ValueError(
            "`excluded_rows` must have one row for each query, padded with "
            f"-1. Received: excluded_rows.shape={tuple(excluded_rows.shape)} "
            f"for {query_vectors.shape[0]} queries."
        )
    if allowed is not None and tuple(allowed.shape) != shapes[1][:1]:
        raise ValueError(
            "`allowed` must have one boolean for each candidate. Received: "
            f"allowed.shape={tuple(allowed.shape)} for {shapes[1][0]} "
            "candidates."
        )
