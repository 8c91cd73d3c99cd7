"""Functions of a model's weights, compiled with the weights as arguments."""

from collections.abc import Callable

import jax
import keras
import numpy as np

from keras_dp_retrieval._jax.replication import replicate


def compiled(model, function: Callable) -> Callable:
    """Returns `function`, compiled once for each shape of its arguments.

    Layers that are called outside of a program run each operation by itself,
    and each is compiled for itself. The weights are arguments of the program,
    as they are at each call, and not constants in it, so that a large table is
    neither copied nor folded.

    Args:
        model: `keras.Model`, built, whose weights do not change their number.
        function: Reads weights of the model, and takes and returns arrays, or
            nested structures of them.

    Returns:
        The same function; every device, and process, has the whole result.
    """

    @jax.jit
    def read(values, arguments):
        mapping = list(zip(model.variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return replicate(function(*arguments))

    def call(*arguments):
        return read([variable.value for variable in model.variables], arguments)

    return call


def are_values(tree) -> bool:
    """Whether every leaf is an array, and none is part of a trace."""
    return all(
        isinstance(leaf, (np.ndarray, np.generic, jax.Array))
        and not isinstance(leaf, jax.core.Tracer)
        for leaf in jax.tree.leaves(tree, is_leaf=lambda one: one is None)
    )


def are_placed(tree) -> bool:
    """Whether a program for the devices in effect takes every array as it is.

    One that was made on other devices stays there, as the weights of a model
    do that was made before its `keras.distribution`.
    """
    distribution = keras.distribution.distribution()
    if distribution is None:
        return True
    devices = set(distribution.device_mesh.backend_mesh.devices.flat)
    return all(
        not leaf.committed or leaf.sharding.device_set == devices
        for leaf in jax.tree.leaves(tree)
        if isinstance(leaf, jax.Array)
    )
