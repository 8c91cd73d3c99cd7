"""Which candidates are in which lists, at a cost that follows the lists.

Lists differ in length, often by a factor of a thousand: padded to the longest
they would cost what the longest costs, times the batch. Here they are gone
through one behind the other, `CHUNK` entries at a time.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import keras
from jax import lax

# Entries gone through at a time: enough to keep a device busy, and little
# beside the logits that the answer is for.
CHUNK = 16_384

_NEVER = jnp.iinfo(jnp.int32).max


class Lists(NamedTuple):
    """A list of candidates for every example of a batch.

    Attributes:
        starts: `(num_lists + 1,)` int32: list `l` is
            `rows[starts[l]:starts[l + 1]]`.
        rows: `(num_entries,)` int32, candidate rows, which may be repeated.
        numbers: `(batch,)` int32, the list of each example.
        lengths: `(batch,)` int32, or None: the example has only the first so
            many entries of its list.
    """

    starts: Any
    rows: Any
    numbers: Any
    lengths: Any = None


def among(lists: Lists, columns):
    """Whether a column's candidate is in the example's list.

    Costs the length of each distinct list in the batch, times the logarithm
    of the number of columns; memory follows the result.

    Args:
        lists: `Lists`.
        columns: `(columns,)` int32 candidate rows, repeated or not.

    Returns:
        bool `(batch, columns)`.
    """

    def of_share(numbers, lengths, starts, rows, columns):
        batch, num_columns = numbers.shape[0], columns.shape[0]
        in_order = jnp.sort(columns)
        # The examples of one list share what is found in it.
        distinct, slots = jnp.unique(
            numbers, return_inverse=True, size=batch, fill_value=-1
        )
        most = jnp.zeros(batch, "int32").at[slots].max(lengths)
        begin = starts[distinct]
        size = jnp.minimum(starts[distinct + 1] - begin, most)
        size = jnp.where(distinct < 0, 0, size)

        def note(first_indices, slot, index, row):
            column = jnp.searchsorted(in_order, row)
            is_there = in_order[jnp.minimum(column, num_columns - 1)] == row
            column = jnp.where(is_there, column, num_columns)
            return first_indices.at[slot, column].min(index, mode="drop")

        first_indices = jnp.full((batch, num_columns), _NEVER, "int32")
        first_indices = _for_each_entry(begin, size, rows, note, first_indices)
        first_indices = first_indices[:, jnp.searchsorted(in_order, columns)]
        return first_indices[slots] < lengths[:, None]

    return on_own_examples(
        of_share,
        (lists.numbers, _lengths(lists)),
        (lists.starts, lists.rows, columns),
    )


def within(lists: Lists, first, size: int):
    """Which of the candidates from `first` on are in the example's list.

    Args:
        lists: `Lists`.
        first: int or int32 scalar. The first candidate row.
        size: int. How many rows from there.

    Returns:
        bool `(batch, size)`.
    """

    def of_share(numbers, lengths, starts, rows, first):
        batch = numbers.shape[0]
        begin = starts[numbers]
        lengths = jnp.minimum(starts[numbers + 1] - begin, lengths)

        def note(found, example, _, row):
            index = _index_of(row, first, size)
            return found.at[example, index].set(True, mode="drop")

        found = jnp.zeros((batch, size), "bool")
        return _for_each_entry(begin, lengths, rows, note, found)

    return on_own_examples(
        of_share,
        (lists.numbers, _lengths(lists)),
        (lists.starts, lists.rows, jnp.asarray(first, "int32")),
    )


def _lengths(lists: Lists):
    """How much of each list counts, int32 `(batch,)`: all, where none is."""
    if lists.lengths is None:
        return jnp.full(lists.numbers.shape, _NEVER, "int32")
    return lists.lengths


def padded_within(rows, first, size: int):
    """As `within`, for lists `(batch, longest)` padded with -1."""
    # Example by example, because the compiler then sees that no device needs
    # another's.
    return jax.vmap(
        lambda indices: (
            jnp.zeros(size, "bool").at[indices].set(True, mode="drop")
        )
    )(_index_of(rows, first, size))


def _index_of(rows, first, size: int):
    """Where a candidate stands from `first` on; `size` where it does not."""
    is_there = (rows >= first) & (rows < first + size)
    return jnp.where(is_there, rows - first, size)


def _for_each_entry(begin, sizes, rows, note, result):
    """Calls `note(result, list, index, row)` for chunks of all entries.

    Args:
        begin: `(lists,)` int32. Where each list begins in `rows`.
        sizes: `(lists,)` int32. How many entries it has.
        rows: `(num_entries,)` int32.
        note: Function that returns the new result. For entries that do not
            exist it is called with a `list` that does not.
        result: Array to begin with.
    """
    ends = jnp.cumsum(sizes)
    total = ends[-1]
    num_lists = sizes.shape[0]

    def chunk(number_and_result):
        number, result = number_and_result
        entry = number * CHUNK + jnp.arange(CHUNK, dtype="int32")
        which = jnp.searchsorted(ends, entry, side="right")
        known = jnp.minimum(which, num_lists - 1)
        index = entry - (ends[known] - sizes[known])
        row = rows[jnp.minimum(begin[known] + index, rows.shape[0] - 1)]
        return number + 1, note(result, which, index, row)

    _, result = lax.while_loop(
        lambda state: state[0] * CHUNK < total, chunk, (jnp.int32(0), result)
    )
    return result


def on_own_examples(function, of_examples, of_all, is_summed=False):
    """Calls `function` on each device with its share of the examples.

    The compiler does not see that the devices need nothing of each other: it
    would let them meet in every turn of the loop.

    Args:
        function: Function of all the arrays.
        of_examples: Arrays `(batch, ...)`, of which each device has a share.
        of_all: Arrays that each device has the whole of.
        is_summed: bool. Whether the results are added up over the devices;
            they are otherwise those of its examples.
    """
    distribution = keras.distribution.distribution()
    if distribution is not None:
        mesh = distribution.device_mesh.backend_mesh
        axis = distribution.batch_dim_name
        share = jax.P(axis)
        if of_examples[0].shape[0] % mesh.shape[axis] == 0:

            def of_device(*arrays, function=function):
                result = function(*arrays)
                return lax.psum(result, axis) if is_summed else result

            function = jax.shard_map(
                of_device,
                mesh=mesh,
                in_specs=(share,) * len(of_examples) + (jax.P(),) * len(of_all),
                out_specs=jax.P() if is_summed else share,
                check_vma=False,
            )
    return function(*of_examples, *of_all)
