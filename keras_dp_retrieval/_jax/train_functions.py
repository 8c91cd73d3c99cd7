"""What Keras calls for each batch: many steps as one program, compiled once."""

import contextlib

import jax
import keras
import numpy as np
from jax import lax
from jax import numpy as jnp

from keras_dp_retrieval._jax.replication import replicate


def fused_train_function(model):
    """Returns a train function that runs a whole group of steps per call.

    `PaddedBatches` stacks the batches of a group to `(batch, steps, ...)`: the
    batch axis stays first, so that Keras splits it over the devices, and
    moving the step axis to the front needs no exchange between them.

    A batch that is not stacked, as `train_on_batch` has it, is one step.
    """
    run = _compiled(model)
    return lambda state, iterator: run(state, next(iterator), [])


def shared_train_function(model, sharing):
    """As `fused_train_function`, with a program that alike models share.

    What is shared is compiled: it holds no model, and no model's weights.

    Args:
        model: A compiled `PaddedModel`.
        sharing: Its `Sharing`:
            `numbers`: list of `(owner, name)`: attributes that the program
                takes as arguments; others are constants in it;
            `programs`: dict, in which compiled programs are found again;
            `key`: hashable, what a program depends on beside these numbers,
                and beside the shapes and devices of its arguments.
    """
    numbers, programs = sharing.numbers, sharing.programs
    run = _compiled(model, numbers)

    def call(state, iterator):
        arguments = state, next(iterator), _values_of(numbers)
        place = sharing.key, _kind_of(arguments)
        if place not in programs:
            program = run.lower(*arguments).compile()
            noted = {name: getattr(model, name) for name in model.noted}
            programs[place] = program, noted
        program, noted = programs[place]
        for name, value in noted.items():
            setattr(model, name, value)
        return program(*arguments)

    return call


def _compiled(model, numbers=()):
    return jax.jit(
        fused_steps(model, numbers),
        donate_argnums=0,
        out_shardings=_out_shardings(model),
    )


def fused_steps(model, numbers=()):
    """A function of state, group and the values of `numbers`."""

    def run(state, group, values):
        with _replaced(numbers, values):
            return steps(state, group)

    def steps(state, group):
        _, _, weights = group
        if weights.ndim == 1:
            return model.train_step(state, group)

        def step(state, data):
            logs, state = model.train_step(state, data)
            return state, logs

        # Every device counts the positives of all (`counts.py`): this is one
        # exchange for the group in place of two in each of its steps. What is
        # computed from them stays divided.
        group = group[0], *replicate((group[1], weights))
        batches = jax.tree.map(lambda rows: jnp.moveaxis(rows, 1, 0), group)
        state, logs = lax.scan(step, state, batches)
        return jax.tree.map(lambda log: log[-1], logs), state

    return run


def _values_of(numbers) -> list:
    return [np.float32(getattr(owner, name)) for owner, name in numbers]


@contextlib.contextmanager
def _replaced(numbers, values):
    """Gives attributes other values, for the time of a trace."""
    own = [getattr(owner, name) for owner, name in numbers]
    try:
        for (owner, name), value in zip(numbers, values, strict=True):
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name), value in zip(numbers, own, strict=True):
            setattr(owner, name, value)


def _kind_of(arguments) -> tuple:
    """What JAX compiles a function for: shapes, dtypes and devices."""
    leaves, structure = jax.tree.flatten(arguments)
    kinds = [
        (leaf.shape, leaf.dtype, getattr(leaf, "sharding", None))
        for leaf in leaves
    ]
    return structure, tuple(kinds)


def _out_shardings(model):
    if keras.distribution.distribution() is None:
        return None
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    shardings = tuple([v.value.sharding for v in group] for group in groups)
    return None, shardings


def on_committed_state(function):
    """Returns a train or test function that JAX compiles once.

    On one device Keras makes variables that may move ("uncommitted") and gets
    them back from a step bound to the device, all but the metrics that it
    resets in each epoch. JAX compiles again for each such mixture.
    """

    def bound(array):
        if array.committed:
            return array
        return jax.device_put(array, array.sharding)

    return lambda state, iterator: function(
        jax.tree.map(bound, state), iterator
    )
