"""Stateless training and test steps.

`state` is Keras' own: lists of arrays in the order of the model's
`trainable_variables`, `non_trainable_variables`, `optimizer.variables` and
`metrics_variables` (without the optimizer's in a test step).
"""

import jax
import keras
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

    Keras weights it by the rows of the batch, padding included, so that a
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


@jax.jit
def mean_of(total, count):
    """What `keras.metrics.Mean.result` is, as one program rather than four."""
    return jnp.where(count == 0, 0, total / jnp.where(count == 0, 1, count))
