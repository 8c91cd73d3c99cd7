"""One weight for each row, of whatever weights `fit` is given."""

import functools

import keras
import numpy as np


def row_weights(sample_weight, shape=None) -> np.ndarray:
    """Returns `sample_weight` as one weight for each row, float32.

    Keras takes one array for each key of a dict `y`. Here the keys describe
    one example, so that arrays of several keys must agree.

    Args:
        sample_weight: `(batch,)`, or a dict of such.
        shape: What to return them in; `(batch,)` by default.

    Raises:
        ValueError: If the keys' weights differ, there is not one weight for
            each row, or one is negative, NaN or infinite as a float32.
    """
    if isinstance(sample_weight, (list, tuple)) and not any(
        np.ndim(weight) for weight in sample_weight
    ):
        sample_weight = np.array(sample_weight)
    first, *others = map(
        np.asarray, keras.tree.flatten(sample_weight) or ["nothing"]
    )
    try:
        with np.errstate(over="ignore"):  # What overflows is infinite below.
            weights = first.astype("float32")
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`sample_weight` must be numbers, one for each row. Received: "
            f"{sample_weight!r:.80}."
        ) from error
    bad = ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        raise ValueError(
            "`sample_weight` must be finite and not negative. Received: "
            f"{first[bad].flat[0]}, and {bad.sum() - 1} more such in "
            f"{weights.size} rows. Use 0 for a row that is not to count."
        )
    if any(not np.array_equal(other, first) for other in others):
        raise ValueError(
            "`sample_weight` must be one weight for each row, `(batch,)`: the "
            "keys of the targets describe one example together. Received: a "
            f"{type(sample_weight).__name__} of weights that differ between "
            "its keys. Pass one array."
        )
    shape = weights.shape[:1] if shape is None else shape
    if weights.size != np.prod(shape):
        raise ValueError(
            "`sample_weight` must be one weight for each row, `(batch,)`. "
            f"Received: {weights.size} weights for {np.prod(shape)} rows."
        )
    return weights.reshape(shape)


def with_weights(group, sizes=None) -> tuple:
    """Returns `((x, y, sample_weight), sizes)` of stacked batches.

    Args:
        group: `(x,)`, `(x, y)` or `(x, y, sample_weight)`, nested NumPy arrays
            `(steps, batch, ...)`.
        sizes: Optional int `(steps,)`, the rows of each step; by default all.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(group)
    shape = keras.tree.flatten(x)[0].shape[:2]
    if sizes is None:
        sizes = np.full(shape[0], shape[1])
    if sample_weight is None:
        return (x, y, ones(shape)), sizes
    return (x, y, row_weights(sample_weight, shape)), sizes


@functools.lru_cache(maxsize=16)
def ones(shape) -> np.ndarray:
    """The weights where all rows are real: one array, which nobody changes.

    Who counts its rows need do so only once.
    """
    weights = np.ones(shape, "float32")
    weights.flags.writeable = False
    return weights
