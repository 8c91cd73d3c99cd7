"""Exact top-k of dot products: whole or in chunks, on one device or many."""

import functools

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import _checks, distribution

# Candidates scored at a time unless the caller says otherwise. Of 4,096 to
# 65,536, the fastest for the best 100 of 1M x 64 and among the fastest for the
# best 10, on one CPU core: 4 MB of scores for 64 queries.
DEFAULT_CHUNK_SIZE = 16_384

# What `k` may be where the catalogue is smaller: the rest of a list is filler.
MOST_FILLED = 2**20

# One query has few scores: the best 100 took 13 ms in chunks of 16,384, and in
# these 11 ms, which is what the products alone take.
ONE_QUERY_CHUNK_SIZE = 65_536

# Candidates in a block, whose maximum is taken before anything is sorted; of
# 16, 32, 64 and 128 the fastest in the same measurement.
BLOCK = 32

# Blocks to sort in a chunk that has few that matter; those with more sort k.
FEW_BLOCKS = (4, 16)


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
    `keras.distribution.DataParallel` is in force, each device searches its
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
            16,384, or 65,536 for a single query. It need not divide the
            number of candidates.

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
        one = query_vectors.shape[0] == 1
        chunk_size = ONE_QUERY_CHUNK_SIZE if one else DEFAULT_CHUNK_SIZE
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
        from keras_dp_retrieval._jax import topk

        best = topk.run(best_of_rows, arrays, options, *mesh_and_axis())
    if k == num_found:
        return best
    filler = ((0, 0), (0, k - num_found))
    scores, rows = best
    return (
        ops.pad(scores, filler, constant_values=-float("inf")),
        ops.pad(rows, filler, constant_values=-1),
    )


def check_k(k, num_candidates: int) -> int:
    """Returns `k` as an int, or raises a ValueError.

    It may exceed the catalogue, but not without end: what lies beyond is
    filler, and takes as much memory as candidates do.
    """
    k = _checks.positive_int("k", k)
    most = max(num_candidates, MOST_FILLED)
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
    scores = _clean(scores, allowed[None, :])
    # Stable on JAX, so that ties go to the lower row.
    rows = ops.cast(ops.argsort(-scores, axis=-1), "int32")
    scores = ops.take_along_axis(scores, rows, axis=1)
    rows = ops.where(scores > -float("inf"), rows, -1)[:, :k]
    return ops.pad(rows, [[0, 0], [0, k - rows.shape[1]]], constant_values=-1)


def best_of_rows(
    query_vectors,
    candidate_vectors,
    excluded_rows,
    allowed,
    candidate_scales,
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
    chunk_size = _even_chunk(min(num_rows, num_candidates), chunk_size)
    batch = ops.shape(query_vectors)[0]
    best = (
        ops.full((batch, k), -float("inf"), dtype="float32"),
        ops.full((batch, k), -1, dtype="int32"),
    )
    if not chunk_size:
        return best
    by_blocks = chunk_size % BLOCK == 0 and chunk_size // BLOCK > 2 * k
    merge = _merge_best_blocks if by_blocks else _merge_all_columns
    end = ops.minimum(first_row + num_rows, num_candidates)

    def merge_chunk(number, best):
        chunk_first = first_row + number * chunk_size
        # The last chunk starts early rather than reach past the end, and
        # leaves out what the chunk before it has had.
        start = ops.minimum(chunk_first, num_candidates - chunk_size)

        def chunk_of(array):
            rest = array.shape[1:]
            return ops.slice(
                array, [start] + [0] * len(rest), [chunk_size, *rest]
            )

        rows = start + ops.arange(chunk_size, dtype="int32")
        usable = ops.logical_and(rows >= chunk_first, rows < end)
        if allowed is not None:
            usable = ops.logical_and(usable, chunk_of(allowed))
        vectors = ops.cast(chunk_of(candidate_vectors), "float32")
        scores = _dot_products(vectors, query_vectors)
        if candidate_scales is not None:
            scores = scores * chunk_of(candidate_scales)[:, None]
        scores = _clean(scores, usable[:, None])
        if excluded_rows is not None:
            scores = _mask_excluded(scores, excluded_rows - start)
        return merge(best, scores, start)

    num_chunks = -(-num_rows // chunk_size)
    scores, rows = ops.fori_loop(0, num_chunks, merge_chunk, best)
    return scores, ops.where(scores > -float("inf"), rows, -1)


def _even_chunk(num_rows, chunk_size):
    """The chunk, of no more than `chunk_size`, that wastes the least.

    Chunks of equal length, so that the last one repeats next to nothing, and
    whole blocks where they are long enough to have any.
    """
    chunk_size = min(chunk_size, num_rows)
    if chunk_size < 2 * BLOCK:
        return chunk_size
    num_chunks = -(-num_rows // (chunk_size // BLOCK * BLOCK))
    return distribution.round_up(-(-num_rows // num_chunks), BLOCK)


def _dot_products(vectors, query_vectors):
    """Dot products, `(chunk, batch)`, the faster way round on a CPU.

    Of 1M x 64 candidates on one core: with 64 queries 90 ms, and 330 ms the
    other way round; with one query 19 ms, and 12 ms the other way round.
    """
    if query_vectors.shape[0] == 1:
        products = ops.matmul(query_vectors, ops.transpose(vectors))
        return ops.transpose(products)
    return ops.matmul(vectors, ops.transpose(query_vectors))


def _clean(scores, usable):
    """Minus infinity for what must not be found, and one zero.

    NaN fails the comparison. XLA's `top_k` sorts 0.0 before -0.0.
    """
    usable = ops.logical_and(usable, scores > -float("inf"))
    scores = ops.where(scores == 0.0, 0.0, scores)
    return ops.where(usable, scores, -float("inf"))


def _mask_excluded(scores, rows):
    """Minus infinity in `rows`, `(batch, m)`, of `scores`, `(chunk, batch)`.

    Rows outside of the chunk do nothing.
    """
    inside = ops.logical_and(rows >= 0, rows < scores.shape[0])
    queries = ops.arange(ops.shape(rows)[0], dtype="int32")[:, None]
    queries = ops.broadcast_to(queries, ops.shape(rows))
    indices = ops.stack([ops.where(inside, rows, 0), queries], axis=-1)
    # A minimum, since all those outside meet a real one in row 0.
    return ops.scatter_update(
        scores,
        ops.reshape(indices, (-1, 2)),
        ops.reshape(ops.where(inside, -float("inf"), float("inf")), (-1,)),
        reduction="min",
    )


def _merge_all_columns(best, scores, start):
    """The best of `best` and of a chunk's `scores`, `(chunk, batch)`."""
    k = min(best[0].shape[1], scores.shape[0])
    scores, columns = _stable_top_k(ops.transpose(scores), k)
    return _merge(best, scores, start + columns)


def _merge_best_blocks(best, scores, start):
    """The same by sorting only the blocks of rows that can hold a winner.

    A candidate is among the best k only if its block is among the best k
    blocks by their maxima, equal maxima by rising row: each block before its
    own holds a candidate that goes before it. And a later chunk's block only
    matters if its maximum exceeds the k-th best so far. That is few blocks for
    most chunks, so there are cheaper branches for few.
    """
    num_rows, batch = scores.shape[0], ops.shape(scores)[1]
    k = best[0].shape[1]
    blocks = ops.reshape(scores, (num_rows // BLOCK, BLOCK, batch))
    maxima = ops.transpose(ops.max(blocks, axis=1))
    better = ops.cast(maxima > best[0][:, -1:], "int32")
    needed = ops.max(ops.sum(better, axis=1))

    def merge_blocks(number):
        # Back in the order of the rows, which is what breaks ties.
        chosen = ops.sort(_stable_top_k(maxima, number)[1], axis=1)
        rows = chosen[:, :, None] * BLOCK + ops.arange(BLOCK, dtype="int32")
        rows = ops.reshape(rows, (batch, number * BLOCK))
        queries = ops.arange(batch, dtype="int32")[:, None]
        found = ops.take(ops.reshape(scores, (-1,)), rows * batch + queries)
        return _merge(best, found, start + rows)

    numbers = [number for number in FEW_BLOCKS if number < k] + [k]
    branch = sum(ops.cast(needed > number, "int32") for number in numbers[:-1])
    branches = [functools.partial(merge_blocks, number) for number in numbers]
    return ops.switch(branch, branches) if len(numbers) > 1 else branches[0]()


def _merge(best, scores, rows):
    """The best of `best` and of later rows, given in rising order or sorted.

    The best so far have the lower rows, so they go first among equals.
    """
    k = best[0].shape[1]
    scores = ops.concatenate([best[0], scores], axis=1)
    rows = ops.concatenate([best[1], rows], axis=1)
    scores, columns = _stable_top_k(scores, k)
    return scores, ops.take_along_axis(rows, columns, axis=1)


def _stable_top_k(scores, k):
    """`ops.top_k` with ties by the lower column on every backend."""
    backend = keras.backend.backend()
    if backend in ("jax", "tensorflow"):
        scores, columns = ops.top_k(scores, k)
        return scores, ops.cast(columns, "int32")
    # The other backends give tied columns in any order.
    if backend == "numpy":
        columns = np.argsort(-scores, axis=-1, kind="stable").astype("int32")
    else:
        columns = ops.argsort(-scores, axis=-1)  # Stable in torch.
    columns = columns[:, :k]
    return ops.take_along_axis(scores, columns, axis=1), columns


def _as_float32(vectors):
    return ops.cast(ops.convert_to_tensor(vectors), "float32")


def mesh_and_axis():
    """The jax mesh and the axis a batch is divided on; None for one device."""
    if distribution.num_devices() == 1:
        return None, None
    in_force = keras.distribution.distribution()
    return in_force.device_mesh.backend_mesh, in_force.batch_dim_name


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
