"""Products of float32 in all their bits."""

import jax


def full_precision():
    """A context in which matrix products are as exact as on a CPU.

    Accelerators multiply float32 in fewer bits unless told not to.
    """
    return jax.default_matmul_precision("highest")
