"""Sums of the rows of a table that lists name, a piece of the lists at a time.

Lists differ in length, often by a factor of a thousand. Padded to the longest,
their rows would take `batch x longest x dim`; here the lists are gone through
one behind the other, `CHUNK` entries at a time, forwards and backwards.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.random import threefry_2x32

from keras_dp_retrieval._jax import row_sparse
from keras_dp_retrieval._jax.membership import on_own_examples

# Entries gone through at a time: 8 MB of rows of 128.
CHUNK = 16_384

# Of these, so many are of one list, and are added up before they are added to
# the sums: XLA's scatter on CPUs takes as long for a row as to read ten.
BLOCK = 32


class Entries(NamedTuple):
    """Lists of rows, one for each example of a batch.

    Attributes:
        rows, begin, sizes, columns: As in `towers.HistoryLists`. Row 0 and
            padding count for nothing.
        key: Optional uint32 `(2,)`: the seed that entries are dropped by.
        rate: Optional float: how many of them, from 0 to 1.
    """

    rows: Any
    begin: Any
    sizes: Any
    columns: Any
    key: Any = None
    rate: Any = None


def list_sums(table, entries: Entries):
    """Sums the rows of each list, `(batch, dim)`, and counts them, `(batch,)`.

    Takes `batch x dim` and some rows of a chunk; the gradient takes as much as
    the table, whatever the lists are.

    Args:
        table: `(num_rows, dim)`. Differentiable.
        entries: `Entries`.
    """
    return _list_sums(table, entries)


@jax.custom_vjp
def _list_sums(table, entries):
    return _sums(table, entries)


def _forwards(table, entries):
    return _sums(table, entries), (table, entries)


def _backwards(residuals, gradients):
    table, entries = residuals
    gradient = table_gradient(table.shape[0], entries, gradients[0])
    return gradient.astype(table.dtype), None


_list_sums.defvjp(_forwards, _backwards)


def _sums(table, entries):
    if _is_traced(entries):
        return _sums_by(on_own_examples, table, entries)
    return _sums_here(table, entries)


def _sums_by(run, table, entries):
    def of_share(examples, begin, sizes, rows, table, *dropout):
        def add(sums_and_numbers, block):
            sums, numbers = sums_and_numbers
            vectors = row_sparse.take(table, block.rows).astype("float32")
            sum_of_block = jnp.einsum("bw,bwd->bd", block.weights, vectors)
            sums = sums.at[block.lists].add(sum_of_block, mode="drop")
            number = jnp.sum(block.weights, axis=1)
            return sums, numbers.at[block.lists].add(number, mode="drop")

        nothing = (
            jnp.zeros((begin.shape[0], table.shape[1]), "float32"),
            jnp.zeros(begin.shape, "float32"),
        )
        lists = rows, begin, sizes, examples
        return _for_each_block(lists, dropout, add, nothing)

    return _run(run, of_share, entries, of_all=(table,))


def table_gradient(num_rows: int, entries: Entries, gradients):
    """The gradient of the table, float32 `(num_rows, dim)`.

    Args:
        num_rows: int. Rows of the table.
        entries: `Entries`.
        gradients: `(batch, dim)`, those of the sums.
    """
    if _is_traced(entries):
        run = functools.partial(on_own_examples, is_summed=True)
        return _gradient_by(run, num_rows, entries, gradients)
    return _gradient_here(num_rows, entries, gradients)


def _gradient_by(run, num_rows, entries, gradients):
    def of_share(examples, begin, sizes, gradients, rows, *dropout):
        def add(gradient, block):
            # Beyond the table is nowhere.
            rows = jnp.where(block.weights > 0, block.rows, num_rows)
            of_lists = jnp.minimum(block.lists, gradients.shape[0] - 1)
            each = jnp.broadcast_to(
                gradients[of_lists][:, None], (*rows.shape, gradients.shape[1])
            )
            return gradient.at[rows].add(each, mode="drop")

        nothing = jnp.zeros((num_rows, gradients.shape[1]), "float32")
        lists = rows, begin, sizes, examples
        return _for_each_block(lists, dropout, add, nothing)

    gradients = jnp.asarray(gradients, "float32")
    return _run(run, of_share, entries, of_examples=(gradients,))


def looked_up(entries: Entries, gradients, num_rows: int):
    """The same gradient row by row, padded to the longest list.

    Returns:
        `(rows, gradients)`, `(batch, longest)` and `(batch, longest, dim)`;
        what is no entry has the row `num_rows` and a gradient of zeros.
    """
    rows, begin = _flat(entries.rows, entries.begin)
    columns = entries.columns
    found = rows[jnp.minimum(begin[:, None] + columns, rows.shape[0] - 1)]
    examples = jnp.arange(begin.shape[0], dtype="int32")
    counts = (columns < entries.sizes[:, None]) & (found > 0)
    if entries.key is not None:
        counts &= is_kept(entries.key, entries.rate, examples[:, None], columns)
    gradients = jnp.where(counts[..., None], gradients[:, None], 0)
    return jnp.where(counts, found, num_rows), gradients


def is_kept(key, rate, examples, indices):
    """Whether entries are kept, bool; a function of where each stands.

    It is drawn again in the backward pass, and on any number of devices.

    Args:
        key: uint32 `(2,)`.
        rate: float. How many are dropped.
        examples: int32, of any shape. The example of each entry.
        indices: int32. Its index in the list.
    """
    examples, indices = jnp.broadcast_arrays(examples, indices)
    where = jnp.stack([examples, indices]).astype("uint32")
    bits = threefry_2x32(key.astype("uint32"), where)[0]
    # 24 bits, which float32 holds.
    return (bits >> 8).astype("float32") * 2**-24 >= rate


class _Blocks(NamedTuple):
    """Some blocks of lists.

    Attributes:
        rows: int32 `(blocks, BLOCK)`.
        weights: float32, of that shape: 1 for entries, 0 for what is none, or
            dropped.
        lists: int32 `(blocks,)`, beyond all lists where there is no block.
    """

    rows: Any
    weights: Any
    lists: Any


def _for_each_block(lists, dropout, add, result):
    """Calls `add(result, blocks)` for chunks of the blocks of all lists."""
    rows, begin, sizes, examples = lists
    rows, begin = _flat(rows, begin)
    num_lists = begin.shape[0]
    num_blocks = (sizes + BLOCK - 1) // BLOCK
    ends = jnp.cumsum(num_blocks)
    in_chunk = max(CHUNK // BLOCK, 1)

    def chunk(number_and_result):
        number, result = number_and_result
        block = number * in_chunk + jnp.arange(in_chunk, dtype="int32")
        which = _list_of_block(ends, block)
        known = jnp.minimum(which, num_lists - 1)
        first = (block - (ends[known] - num_blocks[known])) * BLOCK
        indices = first[:, None] + jnp.arange(BLOCK, dtype="int32")
        places = begin[known][:, None] + indices
        found = rows[jnp.clip(places, 0, rows.shape[0] - 1)]
        counts = (which < num_lists)[:, None] & (found > 0)
        counts &= indices < sizes[known][:, None]
        if dropout:
            counts &= is_kept(*dropout, examples[known][:, None], indices)
        found = jnp.maximum(found, 0)
        blocks = _Blocks(found, counts.astype("float32"), which)
        return number + 1, add(result, blocks)

    def is_left(number_and_result):
        return number_and_result[0] * in_chunk < jnp.sum(num_blocks)

    return lax.while_loop(is_left, chunk, (jnp.int32(0), result))[1]


def _list_of_block(ends, blocks):
    """In which list each block is, given where the blocks of lists end."""
    if isinstance(ends.shape[0], int):
        return jnp.searchsorted(ends, blocks, side="right").astype("int32")
    # In a program for batches of any size, which cannot search.
    return jnp.sum(ends <= blocks[:, None], axis=1, dtype="int32")


def _flat(rows, begin):
    """Rows on one axis, and where the lists begin there."""
    if rows.ndim == 1:
        return rows, begin
    own = jnp.arange(rows.shape[0], dtype="int32") * rows.shape[1]
    return rows.reshape(-1), begin + own


def _run(run, function, entries, of_examples=(), of_all=()):
    """Calls `run(function, arrays of examples, arrays of all)`.

    `function` takes examples, begin, sizes, those of `of_examples`, the rows,
    those of `of_all`, and what entries are dropped by, if they are.
    """
    examples = jnp.arange(entries.begin.shape[0], dtype="int32")
    share = (examples, entries.begin, entries.sizes, *of_examples)
    dropout = () if entries.key is None else (entries.key, entries.rate)
    if entries.rows.ndim == 2:
        share = (*share, entries.rows)
    else:
        of_all = (entries.rows, *of_all)
    return run(function, share, (*of_all, *dropout))


def _is_traced(entries) -> bool:
    """Whether this is a part of a larger program, such as a training step.

    Otherwise it is a program of its own, which JAX has to keep: each new loop
    would be compiled again. Its users are not divided, as nobody else's are
    that are encoded outside of a program.
    """
    return isinstance(entries.begin, jax.core.Tracer)


def _undivided(function, of_examples, of_all):
    return function(*of_examples, *of_all)


_sums_here = jax.jit(functools.partial(_sums_by, _undivided))
_gradient_here = jax.jit(
    functools.partial(_gradient_by, _undivided), static_argnums=0
)
