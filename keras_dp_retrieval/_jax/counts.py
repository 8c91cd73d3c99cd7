"""How often candidates have been seen in training."""

from keras_dp_retrieval._jax.replication import replicate


def add_counts(counts, rows, weights):
    """Adds 1 to the count of every row with a weight, in place under jit.

    Args:
        counts: int32 `(num_rows,)`.
        rows: int32, any shape; negative rows do not exist.
        weights: The same shape; 0 does not count.

    The rows are given to every device first: otherwise each would count into
    a table of its own, and whole tables would be added up.
    """
    rows, weights = replicate((rows.reshape(-1), weights.reshape(-1)))
    ones = ((weights != 0) & (rows >= 0)).astype(counts.dtype)
    return counts.at[rows].add(ones, mode="drop")
