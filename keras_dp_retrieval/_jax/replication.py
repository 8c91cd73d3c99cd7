"""Copies of whole arrays on every device of a mesh."""

import jax
import keras
import numpy as np


def replicate(tree, mesh=None):
    """Gives every device the whole of every array, under jit or outside.

    Every process can then read the result; of an array that is split over
    several processes, none can.

    Args:
        tree: Nested arrays.
        mesh: Optional `jax.sharding.Mesh`. By default that of the
            `keras.distribution` in effect; without one, nothing is done.
    """
    if mesh is None:
        distribution = keras.distribution.distribution()
        if distribution is None:
            return tree
        mesh = distribution.device_mesh.backend_mesh
    everywhere = jax.NamedSharding(mesh, jax.P())

    def copied(array):
        if isinstance(array, jax.core.Tracer):
            return jax.lax.with_sharding_constraint(array, everywhere)
        return jax.device_put(array, everywhere)

    return jax.tree.map(copied, tree)


def laid_out(value, sharding):
    """The values of an array on the devices that `sharding` says.

    Unlike `jax.device_put`, asks no other process whether it has the same.

    Args:
        value: NumPy array, over all processes.
        sharding: `jax.sharding.Sharding`.
    """
    return jax.make_array_from_callback(
        value.shape, sharding, value.__getitem__
    )


def own_copy(array):
    """This process's copy of an array, NumPy; None if it has a part only."""
    if not isinstance(array, jax.Array):
        return np.asarray(array)
    if not array.is_fully_replicated:
        return None
    return np.asarray(array.addressable_data(0))
