"""Searches for any number of queries, with arrays of few shapes."""

import keras
import numpy as np

from keras_dp_retrieval.data.padding import PADDING, in_few_shapes


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
    if excluded_rows is not None:
        columns = in_few_shapes(excluded_rows.T, PADDING)
        excluded_rows = in_few_shapes(columns.T, PADDING)
    found = search(in_few_shapes(queries), excluded_rows)
    return tuple(
        np.asarray(keras.ops.convert_to_numpy(one))[:num_queries]
        for one in found
    )
