"""Which types of numbers JAX computes with."""

import jax
import numpy as np


def as_jax_reads(array: np.ndarray) -> np.ndarray:
    """Returns an array with the type that JAX would make of its own.

    That is 32 bits for 64, unless `jax_enable_x64` is set. A shape that is
    asked for with 64 bits is warned of since JAX 0.11.
    """
    if array.dtype.kind not in "iuf":
        return array
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)
