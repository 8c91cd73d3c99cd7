"""Functions of a model as compiled programs that take its weights."""

from collections.abc import Callable

import jax
import keras

from keras_dp_retrieval._jax.replication import replicate


def compiled(model, function: Callable) -> Callable:
    """Returns `function`, compiled: with what the weights are when called.

    Layers that are called outside of a program run each operation by itself,
    and each is compiled for itself.

    Args:
        model: `keras.Model`, built.
        function: From arrays to tensors that depend on the model's variables.

    Returns:
        The same function; every device, and process, has the whole result.
    """

    @jax.jit
    def encode(values, args):
        mapping = list(zip(model.variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return replicate(function(*args))

    def call(*args):
        return encode([variable.value for variable in model.variables], args)

    return call
