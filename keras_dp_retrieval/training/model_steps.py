"""The compiled steps of a `PaddedModel`; `step_plan.py` says which run.

Functions that take the model, for the methods that Keras calls.
"""

import functools

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import distribution
from keras_dp_retrieval._keras.adapters import keras_fuses_steps, single_steps
from keras_dp_retrieval.training import step_plan


def train_step(model, state, data):
    """One training step on JAX, dense or row-sparse: `(logs, state)`."""
    from keras_dp_retrieval._jax import row_sparse_step, steps

    plan = step_plan.plan(model)
    if not plan.tables:
        return steps.train_step(model, state, data)
    return row_sparse_step.train_step(
        model,
        state,
        data,
        plan.tables,
        plan.rule,
        update_metrics=functools.partial(steps.update_metrics, model),
    )


def test_step(model, *args):
    """The loss of one batch, with the contract of the backend's own step."""
    if keras.backend.backend() != "jax":
        return _test_step_elsewhere(model, *args)
    from keras_dp_retrieval._jax import steps

    return steps.test_step(model, *args)


# In every epoch `fit` resets and reads the metrics, and Keras does it operation
# by operation, each on all devices: as long as four steps of a small model on
# two. Where the loss is the only metric, it is done at once.


def metrics_result(model):
    """The loss where it is the only metric; or None."""
    if not _has_loss_alone(model):
        return None
    from keras_dp_retrieval._jax import steps

    tracker = model.loss_tracker
    mean = steps.mean_of(tracker.total.value, tracker.count.value)
    return {tracker.name: mean}


def reset_loss(model) -> bool:
    """Resets the metrics if the loss is the only one, and says whether.

    Not without a distribution, where Keras is as fast, and zeros that are
    bound to a device would be another kind of argument to JAX.
    """
    if keras.distribution.distribution() is None or not _has_loss_alone(model):
        return False
    from keras_dp_retrieval._jax.replication import laid_out

    for variable in model.loss_tracker.variables:
        zero = np.zeros(variable.shape, variable.dtype)
        variable.assign(laid_out(zero, variable.value.sharding))
    return True


def _has_loss_alone(model) -> bool:
    on_jax = keras.backend.backend() == "jax"
    return on_jax and model.metrics == [model.loss_tracker]


def _test_step_elsewhere(model, data):
    """As `_jax.steps.test_step`: Keras would count padding rows in the loss."""
    x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
    y_pred = model(x, training=False)
    loss = model.compute_loss(x, y, y_pred, weights, training=False)
    num_real = ops.sum(ops.cast(weights != 0, "float32"))
    model.loss_tracker.update_state(loss, sample_weight=num_real)
    return model.compute_metrics(x, y, y_pred, weights)


def replicated(outputs):
    """What a predict step returns, whole on every device of every process."""
    from keras_dp_retrieval._jax.replication import replicate

    return replicate(outputs)


def fused_train_function(model):
    """The train function that runs a group of steps; None: Keras' own."""
    if not step_plan.fuses_steps(model):
        return None
    from keras_dp_retrieval._jax import train_functions

    if model.shared_steps is not None:
        return train_functions.shared_train_function(model, model.shared_steps)
    return train_functions.fused_train_function(model)


def finish_train_function(model, function):
    """What `fit` and `train_on_batch` call for a train function."""
    if (
        keras.backend.backend() == "jax"
        and keras_fuses_steps()
        and model.steps_per_execution > 1
    ):
        function = single_steps(function)
    return compiled_once(function)


def compiled_once(function):
    """A train or test function without what makes JAX compile it again."""
    if (
        keras.backend.backend() != "jax"
        or keras.distribution.distribution() is None
        or distribution.num_devices() > 1
    ):
        return function
    from keras_dp_retrieval._jax import train_functions

    return train_functions.on_committed_state(function)
