"""Compiling: Keras' losses and metrics have no place in this model."""

import warnings

import keras

from keras_dp_retrieval._keras import slots
from keras_dp_retrieval.warning_categories import TrainingWarning

# What `compile` of Keras has and this model has no use for.
NOT_COMPILED = ("loss", "loss_weights", "metrics", "weighted_metrics")


def refuse_losses_and_metrics(
    loss, loss_weights, metrics, weighted_metrics
) -> None:
    """Raises a ValueError if one of these arguments of `compile` is given."""
    if loss is not None or loss_weights is not None:
        received = "loss" if loss is not None else "loss_weights"
        raise ValueError(
            "What a `TwoTowerRetrieval` learns is its `objective`. "
            f"Received: {received}={loss or loss_weights!r} in `compile`. "
            "Make the model with `objective=`: a name such as "
            "'full_softmax', an `Objective`, or a `keras.losses.Loss` of "
            "rating and score."
        )
    if metrics or weighted_metrics:
        received = "metrics" if metrics else "weighted_metrics"
        raise ValueError(
            "A `TwoTowerRetrieval` predicts lists of candidates, which "
            "Keras' metrics cannot compare with its targets. Received: "
            f"{received}={metrics or weighted_metrics!r} in `compile`. "
            "Give `fit` the callback `RetrievalMetrics(data)`, or call "
            "`keras_dp_retrieval.evaluate(model, data)`."
        )


def arguments_of(config: dict) -> dict:
    """The arguments of `compile` in a saved config, without losses, metrics.

    Earlier versions took them, and had no use for them either.
    """
    unused = [name for name in NOT_COMPILED if config.get(name)]
    if unused:
        warnings.warn(
            f"The model was compiled with {', '.join(unused)}, which it "
            "never used: it learns by its `objective`. Loaded without.",
            TrainingWarning,
            stacklevel=3,
        )
    kept = {k: v for k, v in config.items() if k not in NOT_COMPILED}
    return keras.saving.deserialize_keras_object(kept)


def with_learning_rate(model, learning_rate: float) -> None:
    """Compiles a model as it was, with another rate; the slots stay."""
    arguments = arguments_of(model.get_compile_config())
    optimizer = slots.with_learning_rate(model.optimizer, learning_rate)
    model.compile(**{**arguments, "optimizer": optimizer})
