"""What Keras calls for each batch: many steps as one program, compiled once."""

import jax
import keras
from jax import lax
from jax import numpy as jnp


def fused_train_function(model):
    """Returns a train function that runs a whole group of steps per call.

    `PaddedBatches` stacks the batches of a group to `(batch, steps, ...)`: the
    batch axis stays first, so that Keras splits it over the devices, and
    moving the step axis to the front needs no exchange between them.

    A batch that is not stacked, as `train_on_batch` has it, is one step.
    """

    def run(state, group):
        _, _, weights = group
        if weights.ndim == 1:
            return model.train_step(state, group)

        def step(state, data):
            logs, state = model.train_step(state, data)
            return state, logs

        steps = jax.tree.map(lambda rows: jnp.moveaxis(rows, 1, 0), group)
        state, logs = lax.scan(step, state, steps)
        return jax.tree.map(lambda log: log[-1], logs), state

    run = jax.jit(run, donate_argnums=0, out_shardings=_out_shardings(model))
    return lambda state, iterator: run(state, next(iterator))


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
