"""Which columns of logits hold what the user is known to like."""

from keras import ops

from keras_dp_retrieval.losses.objective import as_rows


def known_columns(batch, rows_of_columns):
    """Mask of columns that are known positives, `(batch, columns)`.

    Args:
        batch: `ScoredBatch`.
        rows_of_columns: int32 `(columns,)`, candidate rows.

    Returns:
        bool, or None if nothing is known.
    """
    if batch.known_lists is not None:
        from keras_dp_retrieval._jax import membership

        return membership.among(batch.known_lists, rows_of_columns)
    if batch.known_positives is not None:
        return columns_in(as_rows(batch.known_positives), rows_of_columns)
    return None


def columns_in(row_lists, rows_of_columns):
    """Whether a column's candidate is in the row's list, `(batch, columns)`.

    Binary search in the sorted columns: comparing every column with every
    entry would take `batch x columns x entries` operations.
    """
    in_order = ops.sort(rows_of_columns)
    index = ops.searchsorted(in_order, rows_of_columns)
    num_columns = in_order.shape[0]
    found = ops.reshape(
        ops.searchsorted(in_order, ops.reshape(row_lists, (-1,))),
        row_lists.shape,
    )
    is_there = (
        ops.take(in_order, ops.minimum(found, num_columns - 1)) == row_lists
    )
    # What was not found goes into an extra column.
    found = ops.where(is_there, found, num_columns)
    hits = ops.vectorized_map(
        lambda columns: ops.scatter_update(
            ops.zeros((num_columns + 1,), dtype="bool"),
            ops.expand_dims(columns, 1),
            ops.ones(columns.shape, dtype="bool"),
        ),
        found,
    )
    return ops.take(hits, index, axis=1)
