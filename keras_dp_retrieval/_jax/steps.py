"""Stateless training and test steps, and many training steps in one program.

`state` is Keras' own: lists of arrays in the order of the model's
`trainable_variables`, `non_trainable_variables`, `optimizer.variables` and
`metrics_variables` (without the optimizer's in a test step).
"""

import jax
import keras
from jax import lax
from jax import numpy as jnp

from keras_dp_retrieval._keras.trainer import loss_and_updates


def train_step(model, state, data):
    """One step of any Keras optimizer, with `loss` counted over real rows.

    Returns:
        `(logs, state)`.
    """
    trainable, *others = state
    optimizer_variables = state[2]
    x, y, weights = keras.utils.unpack_x_y_sample_weight(data)

    def loss(trainable):
        return loss_and_updates(
            model, (trainable, *others), x, y, weights, training=True
        )

    (_, aux), gradients = jax.value_and_grad(loss, has_aux=True)(trainable)
    loss, y_pred, non_trainable, metrics = aux
    trainable, optimizer_variables = model.optimizer.stateless_apply(
        optimizer_variables, gradients, trainable
    )
    logs, metrics = update_metrics(model, metrics, loss, x, y, y_pred, weights)
    return logs, (trainable, non_trainable, optimizer_variables, metrics)


def test_step(model, state, data):
    """The loss of one batch; returns `(logs, state)`."""
    trainable, non_trainable, metrics = state
    x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
    _, aux = loss_and_updates(
        model,
        (trainable, non_trainable, None, metrics),
        x,
        y,
        weights,
        training=False,
    )
    loss, y_pred, non_trainable, metrics = aux
    logs, metrics = update_metrics(model, metrics, loss, x, y, y_pred, weights)
    return logs, (trainable, non_trainable, metrics)


def update_metrics(model, metrics_variables, loss, x, y, y_pred, weights):
    """Adds a batch's mean loss to the epoch's, weighted by its real rows.

    Keras weights it by the rows of the batch, filler included, so that a
    padded epoch's loss would not be the mean over its examples.

    Returns:
        `(logs, metrics_variables)`.
    """
    mapping = list(zip(model.metrics_variables, metrics_variables, strict=True))
    with keras.StatelessScope(state_mapping=mapping) as scope:
        model.loss_tracker.update_state(
            loss, sample_weight=jnp.sum(weights != 0)
        )
        logs = model.compute_metrics(x, y, y_pred, weights)
    return logs, [
        value if (new := scope.get_current_value(variable)) is None else new
        for variable, value in mapping
    ]


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
    resets in each epoch. JAX compiles anew for each such mixture.
    """

    def bound(array):
        if array.committed:
            return array
        return jax.device_put(array, array.sharding)

    return lambda state, iterator: function(
        jax.tree.map(bound, state), iterator
    )


def all_finite(arrays) -> list[bool]:
    """Whether each of these float arrays is without NaN and infinity."""
    groups: dict = {}
    for place, array in enumerate(map(jnp.asarray, arrays)):
        # One program cannot take arrays of different sets of devices.
        devices = frozenset(array.sharding.device_set)
        groups.setdefault(devices, []).append((place, array))
    found: dict = {}
    for group in groups.values():
        places, members = zip(*group, strict=True)
        found.update(zip(places, _all_finite(members), strict=True))
    return [bool(found[place]) for place in range(len(arrays))]


@jax.jit
def _all_finite(arrays):
    return [jnp.isfinite(array).all() for array in arrays]


def replicate(tree):
    """Gives every device the whole of every array, inside a jitted function.

    Every process can then read the result; of an array that is split over
    several processes, none can.
    """
    distribution = keras.distribution.distribution()
    if distribution is None:
        return tree
    mesh = distribution.device_mesh.backend_mesh
    everywhere = jax.NamedSharding(mesh, jax.P())
    return jax.tree.map(
        lambda array: lax.with_sharding_constraint(array, everywhere), tree
    )


def add_counts(counts, rows, weights):
    """Adds 1 to the count of every row with a weight, in place under jit.

    Args:
        counts: int32 `(num_rows,)`.
        rows: int32, any shape; negative rows do not exist.
        weights: The same shape; 0 does not count.

    The rows are given to every device first: otherwise each would count into
    a table of its own, and whole tables would be added up.
    """
    rows, weights = replicate((rows.reshape(-1), weights.reshape(-1)))
    ones = ((weights != 0) & (rows >= 0)).astype(counts.dtype)
    return counts.at[rows].add(ones, mode="drop")
