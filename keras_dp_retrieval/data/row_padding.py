"""Pads batches to equal numbers of rows; all that do so call `pad_rows`.

Keras refuses a batch whose rows do not divide by the devices (keras#21167).
The data sets pad what they hand to anybody's model, and `fit` of a
`PaddedModel` pads whatever it is given.
"""

from collections.abc import Callable

import keras
import numpy as np

from keras_dp_retrieval.data.padding import pad_indices

_padded_size: list[Callable[[int], int]] = []


def register_padded_size(function: Callable[[int], int]) -> None:
    """Says to how many rows a batch is padded.

    The data knows nothing of devices; what does, `distribution`, registers
    itself here. It is asked whenever batches are asked for, so that a
    distribution may be set after the data set was made.

    Args:
        function: From the rows of a batch to the rows after padding, at least
            as many.
    """
    _padded_size[:] = [function]


def padded_size(num_rows: int) -> int:
    """To how many rows a batch of `num_rows` rows is padded just now."""
    return _padded_size[0](num_rows) if _padded_size else num_rows


def pad_rows(columns, sizes, num_rows: int, weights=None) -> tuple:
    """Pads every batch of a group to `num_rows` rows.

    Padding repeats the first row of its batch, whose ids are valid, and has
    weight 0.

    Args:
        columns: Nested arrays `(steps, longest, ...)`; None stays None.
        sizes: int `(steps,)`. Rows of each batch, from 1 to `longest`. What
            stands behind them is not read.
        num_rows: int. Not less than any size.
        weights: Optional `(steps, longest)`. By default a row weighs 1.

    Returns:
        `(columns, weights)`, of shape `(steps, num_rows, ...)`; weights are
        float32.
    """
    sizes = np.asarray(sizes)
    longest = min(keras.tree.flatten(columns)[0].shape[1], num_rows)
    # Most batches are as long as the longest: copying them costs less than
    # looking up each of their rows.
    short = np.flatnonzero(sizes < longest)
    indices, mask = pad_indices(sizes[short], longest)

    def pad(rows):
        padded = np.empty((len(rows), num_rows, *rows.shape[2:]), rows.dtype)
        padded[:, :longest] = rows[:, :longest]
        padded[:, longest:] = rows[:, :1]
        padded[short, :longest] = rows[short[:, None], indices]
        return padded

    if weights is None:
        weights = np.ones((len(sizes), num_rows), np.float32)
    else:
        weights = pad(weights)
    weights[:, longest:] = 0
    weights[short, :longest] = np.where(mask, weights[short, :longest], 0)
    return keras.tree.map_structure(pad, columns, none_is_leaf=False), weights
