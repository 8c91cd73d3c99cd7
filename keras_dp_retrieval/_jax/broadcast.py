"""What process 0 has, for all processes, without a shared disk."""

import numpy as np
from jax.experimental import multihost_utils


def from_first(array: np.ndarray) -> np.ndarray:
    """Returns the array of process 0; all processes call it together.

    Args:
        array: NumPy array; on the others any of that shape and type.
    """
    # As bytes: JAX adds up what the processes have, all but process 0 zeros,
    # and -0.0 + 0.0 is 0.0.
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    received = multihost_utils.broadcast_one_to_all(flat)
    return np.asarray(received).view(array.dtype).reshape(array.shape)
