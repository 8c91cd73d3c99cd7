"""Searches for any number of queries, with arrays of few shapes."""

import keras
import numpy as np

from keras_dp_retrieval.data.padding import PADDING, next_power_of_two


def search_in_few_shapes(search, queries, excluded_rows):
    """The results of a search, which is compiled for each shape of its inputs.

    Queries, and rows that are left out, are padded to powers of two.

    Args:
        search: Function of float32 `(batch, dim)` and of None or int32
            `(batch, num_excluded)`, padded with -1, which returns two tensors
            `(batch, k)`.
        queries: float32 `(num_queries, dim)`.
        excluded_rows: None or int32 `(num_queries, num_excluded)`.

    Returns:
        Two NumPy arrays `(num_queries, k)`.
    """
    num_queries = len(queries)
    more = next_power_of_two(num_queries) - num_queries
    if excluded_rows is not None:
        width = excluded_rows.shape[1]
        excluded_rows = np.pad(
            excluded_rows,
            ((0, more), (0, next_power_of_two(width) - width)),
            constant_values=PADDING,
        )
    found = search(np.pad(queries, ((0, more), (0, 0))), excluded_rows)
    return tuple(
        np.asarray(keras.ops.convert_to_numpy(one))[:num_queries]
        for one in found
    )
