"""Inputs of the user tower, padded to few shapes."""

import numpy as np

from keras_dp_retrieval.data.padding import PADDING
from keras_dp_retrieval.serving import shapes


def padded_inputs(inputs, history_widths):
    """The inputs, with histories and lists of features as wide as others.

    Args:
        inputs: int `(batch,)` rows, `(batch, length)` histories padded with
            -1, or a dict with `"history"` and columns of features, of which
            lists are padded with 0.
        history_widths: Rising ints, to the first of which that suffices
            histories are padded.

    Raises:
        ValueError: If a feature has too many labels or words.
    """
    if not isinstance(inputs, dict):
        inputs = np.asarray(inputs)
        if inputs.ndim == 1:
            return inputs
        return _padded(inputs, history_widths, PADDING)
    arrays = {name: np.asarray(one) for name, one in inputs.items()}
    lists = [
        one.shape[1]
        for name, one in arrays.items()
        if one.ndim == 2 and name != "history"
    ]
    widest = shapes.FEATURE_WIDTHS[-1]
    if max(lists, default=0) > widest:
        raise ValueError(
            f"A feature of a user must have {widest} labels or words at most. "
            f"Received: {max(lists)}."
        )
    # One width for all, so that their combinations are few.
    width = shapes.smallest(shapes.FEATURE_WIDTHS, max(lists, default=0))
    return {
        name: _padded(one, history_widths, PADDING)
        if name == "history"
        else _padded(one, [width], 0)
        for name, one in arrays.items()
    }


def _padded(array, widths, fill):
    if array.ndim == 1:
        return array
    more = shapes.smallest(widths, array.shape[1]) - array.shape[1]
    return np.pad(array, ((0, 0), (0, more)), constant_values=fill)
