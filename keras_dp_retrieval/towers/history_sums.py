"""Sums of the embeddings of histories, in the way that takes least room.

| way | where | 4 bytes, a few times |
| --- | --- | --- |
| `"product"` | few candidates, long histories | `batch x num_candidates` |
| `"gather"` | `batch x longest x dim` is small | that |
| `"pieces"` | otherwise | `batch x dim`, and a piece |

The first two pad the histories to the longest that there may be.
"""

import keras
from keras import ops

from keras_dp_retrieval import _lookups
from keras_dp_retrieval._keras.layers import embedding_table
from keras_dp_retrieval.towers.history_lists import HistoryLists

# The most counts of a product, and the most entries of padded histories beside
# it: half a gigabyte, and half of that.
MOST_COUNTS = 2**27
MOST_PADDED = 2**26

# The most floats that are gathered at once: 4 MB, as for a few users of a
# request. In a step, pieces are as quick where all histories are of one length
# (0.8 to 1.1 of the time, three sizes), and many times quicker where not.
MOST_GATHERED = 2**20

# Where a program is made for batches of any size, they are taken to be so long.
USUAL_BATCH = 1024

# Floats of a piece where the backend is not JAX: 16 MB.
PIECE = 2**22


def way_to_sum(table, batch, longest: int) -> str:
    """`"product"`, `"gather"` or `"pieces"`.

    Args:
        table: `RowEmbedding`.
        batch: int; or None, or a symbol, where it is not known.
        longest: int. The length of padded histories.
    """
    batch = batch if isinstance(batch, int) else USUAL_BATCH
    if _covers_much(table, longest):
        fits = batch * table.input_dim <= MOST_COUNTS
        fits = fits and batch * longest <= MOST_PADDED
        return "product" if fits else "pieces"
    gathered = batch * longest * table.output_dim
    return "gather" if gathered <= MOST_GATHERED else "pieces"


def _covers_much(table, longest: int) -> bool:
    """Whether long histories cover much of a small catalogue.

    Then one matrix product is many times faster than to gather and scatter
    padded lists (943 users of up to 737 of 1,682 movies: 4 against 60 ms a
    step).
    """
    return table.input_dim <= 16 * longest


def pool(table, histories, weights):
    """Weighted sum of the embeddings of each history, `(batch, dim)`.

    Args:
        table: `RowEmbedding`.
        histories: int `(batch, length)`; padding must have weight 0.
        weights: float `(batch, length)`.
    """
    num_rows, length = table.input_dim, histories.shape[1]
    if not _covers_much(table, length):
        return look_up_and_sum(table, histories, weights)
    rows = ops.maximum(histories, 0)
    batch = ops.shape(rows)[0]
    indices = rows + num_rows * ops.arange(batch, dtype="int32")[:, None]
    counts = ops.segment_sum(
        ops.reshape(weights, (-1,)),
        ops.reshape(indices, (-1,)),
        num_segments=batch * num_rows,
    )
    counts = ops.reshape(counts, (-1, num_rows))
    return ops.matmul(counts, table.embeddings)


def look_up_and_sum(table, histories, weights):
    """As `pool`, by looking up all rows; takes `batch x length x dim`."""
    vectors = table(ops.maximum(histories, 0))
    return ops.einsum("bl,bld->bd", weights, vectors)


def pool_in_pieces(table, lists: HistoryLists, seed=None, rate=0.0):
    """The sum of the embeddings of each history, and how many they are.

    Rows of 0, which stand for unknown candidates, count for nothing.

    Args:
        table: `RowEmbedding`.
        lists: `HistoryLists`.
        seed: Optional uint32 `(2,)`, what `SeedGenerator.next` returns. Items
            are dropped at random. On JAX only.
        rate: float. How many of them are dropped.

    Returns:
        `(sums, numbers)`, float `(batch, dim)` and `(batch,)`.
    """
    if keras.backend.backend() != "jax":
        return _sums_of_columns(table, lists)
    from keras_dp_retrieval._jax import list_sums

    entries = list_sums.Entries(
        rows=ops.cast(lists.rows, "int32"),
        begin=ops.cast(lists.begin, "int32"),
        sizes=ops.cast(lists.sizes, "int32"),
        columns=ops.cast(lists.columns, "int32"),
        key=seed,
        rate=None if seed is None else rate,
    )
    found = _lookups.list_sums(embedding_table(table), entries)
    if found is None:
        vectors = ops.convert_to_tensor(table.embeddings)
        return list_sums.list_sums(vectors, entries)
    return found


def _sums_of_columns(table, lists):
    """The same on any backend, some columns of all histories at a time.

    It goes on to the longest history of the batch, not to that of all users.
    """
    batch, dim = ops.shape(lists.sizes)[0], table.output_dim
    known = batch if isinstance(batch, int) else USUAL_BATCH
    width = max(PIECE // max(known * dim, 1), 1)
    width = min(width, lists.columns.shape[0])
    longest = ops.max(lists.sizes, initial=0)

    def add(first, sums, numbers):
        columns = first + ops.arange(width, dtype="int32")
        rows = lists.part(columns)
        weights = ops.cast(rows > 0, "float32")
        vectors = ops.take(table.embeddings, ops.maximum(rows, 0), axis=0)
        sums = sums + ops.einsum("bl,bld->bd", weights, vectors)
        return first + width, sums, numbers + ops.sum(weights, axis=1)

    _, sums, numbers = ops.while_loop(
        lambda first, *_: first < longest,
        add,
        (
            ops.zeros((), "int32"),
            ops.zeros((batch, dim), "float32"),
            ops.zeros((batch,), "float32"),
        ),
    )
    return sums, numbers
