"""The touched rows of a table that a step has looked up several times."""

import math

import jax.numpy as jnp

from keras_dp_retrieval._jax import list_sums, row_sparse
from keras_dp_retrieval._jax.replication import replicate

# Lists that, padded to the longest, would have a fourth as many entries as the
# table has rows are merged into a gradient of the table's length. It takes less
# room than their rows side by side, and no search for those that are repeated.
_LISTS_PER_TABLE = 4


def merge_lookups(ids, gradients, table):
    """`TouchedRows` of all lookups into one table; of none, no rows.

    Args:
        ids: A list of what was looked up: int ids, of any shape, or the
            `list_sums.Entries` of lists.
        gradients: A list of the gradients of what was found: `(..., dim)`.
        table: `(num_rows, dim)`.
    """
    num_rows, dim = table.shape
    lists = [isinstance(one, list_sums.Entries) for one in ids]
    if any(lists):
        length = sum(
            math.prod(one.begin.shape + one.columns.shape)
            if is_list
            else one.size
            for one, is_list in zip(ids, lists, strict=True)
        )
        if length * _LISTS_PER_TABLE > num_rows:
            return _merge_into_table(ids, gradients, table)
        each = [
            list_sums.looked_up(one, gradient, num_rows)
            if is_list
            else (one, gradient)
            for one, gradient, is_list in zip(
                ids, gradients, lists, strict=True
            )
        ]
        ids, gradients = zip(*each, strict=True)
    # To every device first: the compiler would otherwise let each update the
    # table by its part of the batch, and then sum whole tables.
    ids = [replicate(i.reshape(-1)) for i in ids]
    gradients = [replicate(g.reshape(-1, dim)) for g in gradients]
    return row_sparse.merge(
        jnp.concatenate([jnp.zeros((0,), "int32"), *ids]),
        jnp.concatenate([jnp.zeros((0, dim), table.dtype), *gradients]),
        table.shape[0],
    )


def _merge_into_table(ids, gradients, table):
    """`TouchedRows` as long as the table, for lists that are longer."""
    num_rows, dim = table.shape
    total = jnp.zeros((num_rows, dim), "float32")
    for one, gradient in zip(ids, gradients, strict=True):
        if isinstance(one, list_sums.Entries):
            total += list_sums.table_gradient(num_rows, one, gradient)
        else:
            one, gradient = replicate((one, gradient))
            total = total.at[one.reshape(-1)].add(
                gradient.reshape(-1, dim).astype("float32"), mode="drop"
            )
    total = total.astype(table.dtype)
    rows = jnp.arange(num_rows, dtype="int32")
    # NaN counts as touched, as in `row_sparse.merge`.
    is_touched = jnp.max(jnp.abs(total), axis=-1) != 0
    return row_sparse.TouchedRows(
        jnp.where(is_touched, rows, num_rows + rows), total
    )
