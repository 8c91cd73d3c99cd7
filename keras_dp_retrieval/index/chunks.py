"""The best rows of a catalogue, scored in chunks: what runs on a device."""

import functools

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import distribution

# Candidates in a block, whose maximum is taken before anything is sorted; of
# 16, 32, 64 and 128 the fastest in the same measurement.
BLOCK = 32

# Blocks to sort in a chunk that has few that matter; those with more sort k.
# With 32 and 64 the best 100 take 0.87 to 0.93 of the time.
FEW_BLOCKS = (4, 16, 32, 64)

# Queries searched at a time on a CPU, so that a chunk's scores stay in its
# cache: 1,024 at once took 1.38 times as long for the best 10, and 1.32 times
# for the best 100. Accelerators are quicker with all.
QUERIES_AT_A_TIME = 128


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

    Rows past the end of the catalogue are left out. `first_row` may be a
    traced number: it is how a device takes its share.
    """

    best = functools.partial(
        _best_of_queries,
        candidate_vectors=candidate_vectors,
        allowed=allowed,
        candidate_scales=candidate_scales,
        first_row=first_row,
        num_rows=num_rows,
        k=k,
        chunk_size=chunk_size,
    )
    given = [query_vectors]
    if excluded_rows is not None:
        given.append(excluded_rows)
    batch = query_vectors.shape[0] or 0  # None is any number.
    if batch > QUERIES_AT_A_TIME and distribution.computes_on_cpu():
        return _in_groups(best, given, batch)
    return best(*given)


def _in_groups(best, given, batch: int):
    """`best` of up to `QUERIES_AT_A_TIME` queries after the other."""
    groups = -(-batch // QUERIES_AT_A_TIME)
    size = -(-batch // groups)
    divided = [
        ops.reshape(
            ops.pad(array, [[0, groups * size - batch], [0, 0]]),
            (groups, size, array.shape[1]),
        )
        for array in given
    ]
    found = ops.map(lambda group: best(*group), tuple(divided))
    return tuple(
        ops.reshape(array, (groups * size, -1))[:batch] for array in found
    )


def _best_of_queries(
    query_vectors,
    excluded_rows=None,
    *,
    candidate_vectors,
    allowed,
    candidate_scales,
    first_row,
    num_rows: int,
    k: int,
    chunk_size: int,
):
    """The same of queries that are searched together."""
    num_candidates = candidate_vectors.shape[0]
    chunk_size = _even_chunk(min(num_rows, num_candidates), chunk_size)
    batch = ops.shape(query_vectors)[0]
    best = (
        ops.full((batch, k), -float("inf"), dtype="float32"),
        ops.full((batch, k), -1, dtype="int32"),
    )
    if not chunk_size:
        return best
    num_chunks = -(-num_rows // chunk_size)
    if excluded_rows is not None:
        excluded_rows = ops.sort(excluded_rows, axis=1)
    by_blocks = chunk_size % BLOCK == 0 and chunk_size // BLOCK > 2 * k
    merge = _merge_best_blocks if by_blocks else _merge_all_columns
    end = ops.minimum(first_row + num_rows, num_candidates)

    def merge_chunk(number, best):
        chunk_first = first_row + number * chunk_size
        # The last chunk starts early rather than reach past the end, and
        # leaves out what the chunk before it has scored.
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
        scores = clean_scores(scores, usable[:, None])
        if excluded_rows is not None:
            scores = _mask_excluded(scores, excluded_rows - start, num_chunks)
        return merge(best, scores, start)

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


def clean_scores(scores, usable):
    """Minus infinity for what must not be found, and one zero.

    NaN fails the comparison. XLA's `top_k` sorts 0.0 before -0.0.
    """
    usable = ops.logical_and(usable, scores > -float("inf"))
    scores = ops.where(scores == 0.0, 0.0, scores)
    return ops.where(usable, scores, -float("inf"))


def _mask_excluded(scores, rows, num_chunks: int):
    """Minus infinity in `rows`, `(batch, m)`, of `scores`, `(chunk, batch)`.

    Rows outside of the chunk do nothing. They are sorted, so that those inside
    stand side by side, and are taken some columns at a time: to look at all of
    them in each chunk took 0.1 of a search for 1,024 users with 100 each.
    """
    num_columns = rows.shape[1]
    width = 8 + 2 * -(-num_columns // num_chunks)  # Twice as many as usual.
    if width >= num_columns:
        return _mask_rows(scores, rows)
    first = _how_many(rows < 0)
    last = _how_many(rows < scores.shape[0])
    longest = ops.max(last - first, initial=0)

    def mask_some(done, scores):
        columns = first + done + ops.arange(width, dtype="int32")
        some = ops.take_along_axis(
            rows, ops.minimum(columns, num_columns - 1), axis=1
        )
        some = ops.where(columns < last, some, -1)
        return done + width, _mask_rows(scores, some)

    _, scores = ops.while_loop(
        lambda done, scores: done < longest,
        mask_some,
        (ops.zeros((), dtype="int32"), scores),
    )
    return scores


def _how_many(columns):
    return ops.sum(ops.cast(columns, "int32"), axis=1, keepdims=True)


def _mask_rows(scores, rows):
    """Minus infinity in some rows; those outside of the chunk do nothing."""
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
        # Sorted by row, as ties go to the lower row.
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
