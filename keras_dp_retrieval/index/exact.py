"""Exact top-k of dot products, on one device or many."""

import keras
from keras import ops

from keras_dp_retrieval import _checks, distribution
from keras_dp_retrieval.data.padding import PADDING
from keras_dp_retrieval.index.chunks import best_of_rows, clean_scores

# Candidates scored at a time unless the caller says otherwise. Of 4,096 to
# 65,536, among the fastest for the best 10 of 1M x 64 on one CPU core, for 8 to
# 256 queries: 4 MB of scores for 64 of them.
DEFAULT_CHUNK_SIZE = 16_384

# Longer lists of 64 queries take 0.91 of the time in these: fewer merges.
LONG_LISTS_CHUNK_SIZE = 32_768

# The largest `k` where the catalogue is smaller: the rest of a list is padding.
LARGEST_PADDED_K = 2**20

# One query has few scores: the best 100 of 1M took 1.16 times as long as the
# products alone in chunks of 65,536, and in these, 4 MB as well, 1.02 times.
ONE_QUERY_CHUNK_SIZE = 2**20


def top_k(
    query_vectors,
    candidate_vectors,
    k: int,
    *,
    excluded_rows=None,
    allowed=None,
    candidate_scales=None,
    chunk_size: int | None = None,
):
    """The `k` candidates with the largest dot product with each query.

    Exact: every candidate is scored, and the result is that of a full sort by
    falling score, equal scores by rising row. The candidates are scored in
    chunks, so that beyond its arguments the call needs memory for
    `batch x chunk_size` scores however long the catalogue is. Where a
    `keras.distribution.DataParallel` is active, each device searches its
    share of the catalogue and the devices' best are merged: the same result.

    A score of NaN or minus infinity is not a score: that candidate is never
    returned. No gradient flows through the result.

    Args:
        query_vectors: Floating point, shape `(batch, dim)`.
        candidate_vectors: Floating point, shape `(num_candidates, dim)`.
            Scores are computed in float32 whatever the type.
        k: int. May exceed the number of candidates, up to 2**20.
        excluded_rows: Optional integers, shape `(batch, num_excluded)`: rows
            never to be returned for that query, padded with -1.
        allowed: Optional booleans, shape `(num_candidates,)`: rows with False
            are returned for no query.
        candidate_scales: Optional floats, shape `(num_candidates,)`, that
            multiply the scores: for vectors kept as small integers.
        chunk_size: Optional int. Candidates scored at a time: by default
            16,384, 32,768 for some long lists, or 2**20 for a single query.
            It need not divide the number of candidates.

    Returns:
        `(scores, rows)`, float32 and int32, each of shape `(batch, k)`, best
        first. Where fewer than `k` candidates are left, the rest has score
        minus infinity and row -1.

    Raises:
        ValueError: If shapes do not fit together, or `k` or `chunk_size` is
            not a whole number of 1 or more, or `k` is too large.
    """
    query_vectors = _as_float32(query_vectors)
    candidate_vectors = ops.convert_to_tensor(candidate_vectors)
    if excluded_rows is not None:
        excluded_rows = ops.cast(excluded_rows, "int32")
    if allowed is not None:
        allowed = ops.cast(allowed, "bool")
    if candidate_scales is not None:
        candidate_scales = _as_float32(candidate_scales)
    arrays = (
        query_vectors,
        candidate_vectors,
        excluded_rows,
        allowed,
        candidate_scales,
    )
    _check_shapes(*arrays)
    num_candidates = candidate_vectors.shape[0]
    k = check_k(k, num_candidates)
    if chunk_size is None:
        chunk_size = _chunk_size(query_vectors.shape[0], k)
    chunk_size = _checks.positive_int("chunk_size", chunk_size)
    # There are no more to be found, and so none to be sorted.
    num_found = min(k, max(num_candidates, 1))
    options = {
        "k": num_found,
        "chunk_size": min(chunk_size, max(num_candidates, 1)),
    }
    if keras.backend.backend() != "jax":
        best = best_of_rows(*arrays, 0, num_candidates, **options)
    else:
        from keras_dp_retrieval._jax import sharded_search

        best = sharded_search.run(
            best_of_rows, arrays, options, *mesh_and_axis()
        )
    if k == num_found:
        return best
    missing = ((0, 0), (0, k - num_found))
    scores, rows = best
    return (
        ops.pad(scores, missing, constant_values=-float("inf")),
        ops.pad(rows, missing, constant_values=PADDING),
    )


def _chunk_size(batch: int | None, k: int) -> int:
    """Candidates scored at a time, by what is quick on a CPU."""
    if batch == 1:
        return ONE_QUERY_CHUNK_SIZE
    has_room = 32 < (batch or 0) <= 64
    return LONG_LISTS_CHUNK_SIZE if has_room and k > 32 else DEFAULT_CHUNK_SIZE


def check_k(k, num_candidates: int) -> int:
    """Returns `k` as an int, or raises a ValueError.

    It may exceed the catalogue up to a limit: the rest of a list is padding,
    which takes as much memory as candidates do.
    """
    k = _checks.positive_int("k", k)
    most = max(num_candidates, LARGEST_PADDED_K)
    if k > most:
        raise ValueError(
            f"`k` must be at most {most:,} for {num_candidates:,} candidates. "
            f"Received: k={k}."
        )
    return k


def top_k_by_sorting(query_vectors, candidate_vectors, k: int, *, allowed):
    """The rows of `top_k`, by a plain sort of all scores.

    For exported programs: TensorFlow cannot read what JAX makes of `top_k`
    ("unregistered operation 'vhlo.composite_v2'"). Takes memory for `batch x
    num_candidates` scores.
    """
    scores = ops.matmul(
        _as_float32(query_vectors),
        ops.transpose(_as_float32(candidate_vectors)),
    )
    scores = clean_scores(scores, allowed[None, :])
    # Stable on JAX, so that ties go to the lower row.
    rows = ops.cast(ops.argsort(-scores, axis=-1), "int32")
    scores = ops.take_along_axis(scores, rows, axis=1)
    rows = ops.where(scores > -float("inf"), rows, -1)[:, :k]
    return ops.pad(rows, [[0, 0], [0, k - rows.shape[1]]], constant_values=-1)


def _as_float32(vectors):
    return ops.cast(ops.convert_to_tensor(vectors), "float32")


def mesh_and_axis():
    """The JAX mesh and the axis of batches; two times None on one device."""
    if distribution.num_devices() == 1:
        return None, None
    active = keras.distribution.distribution()
    return active.device_mesh.backend_mesh, active.batch_dim_name


def _check_shapes(queries, candidates, excluded_rows, *per_candidate):
    shapes = tuple(queries.shape), tuple(candidates.shape)
    if any(len(shape) != 2 for shape in shapes) or (
        shapes[0][1] != shapes[1][1]
    ):
        raise ValueError(
            "`query_vectors` must have the shape (batch, dim) and "
            "`candidate_vectors` (num_candidates, dim), with the same dim. "
            f"Received: {shapes[0]} and {shapes[1]}."
        )
    if excluded_rows is not None and (
        len(excluded_rows.shape) != 2 or excluded_rows.shape[0] != shapes[0][0]
    ):
        raise ValueError(
            "`excluded_rows` must have one row for each query, padded with "
            f"-1. Received: excluded_rows.shape={tuple(excluded_rows.shape)} "
            f"for {shapes[0][0]} queries."
        )
    for name, array in zip(
        ("allowed", "candidate_scales"), per_candidate, strict=True
    ):
        if array is not None and tuple(array.shape) != shapes[1][:1]:
            raise ValueError(
                f"`{name}` must have one value for each candidate. Received: "
                f"{name}.shape={tuple(array.shape)} for {shapes[1][0]} "
                "candidates."
            )
