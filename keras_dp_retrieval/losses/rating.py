"""Objectives that predict ratings."""

import keras
from keras import ops

from keras_dp_retrieval.losses.objective import (
    Objective,
    as_float32,
    one_positive_each,
)


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class RatingError(Objective):
    """Computes the squared error between rating and dot product.

        loss_i = (user_i . candidate_i - rating_i)^2

    Its mean is the mean squared error. It learns from rated pairs only, so
    candidates without ratings keep their initial vectors.
    """

    needs_ratings = True

    def call(self, batch):
        name = type(self).__name__
        scores = _scores_of_pairs(batch, name)
        return ops.square(scores - _ratings(batch, name))


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class PairwiseObjective(Objective):
    """Computes any Keras loss between rating and dot product.

    Example:

    ```python
    objective = kdr.PairwiseObjective(keras.losses.Huber(delta=0.1))
    model = kdr.TwoTowerRetrieval.for_dataset(data, 32, objective=objective)
    ```

    `objective=keras.losses.Huber(delta=0.1)` does the same.

    Args:
        loss: A `keras.losses.Loss`, its config or class name, such as
            `"MeanAbsoluteError"`. Register a custom loss with
            `keras.saving.register_keras_serializable`, so that the model
            loads without `custom_objects`. Its `call` is given two tensors
            `(batch, 1)` and must return one loss per example; its `reduction`
            is not used, as the model averages over real examples only.
    """

    needs_ratings = True

    def __init__(self, loss, **kwargs):
        super().__init__(**kwargs)
        loss = keras.losses.get(loss)
        if not isinstance(loss, keras.losses.Loss):
            raise ValueError(
                "`loss` must be a `keras.losses.Loss`. Received: "
                f"loss={loss!r}. Wrap a function in an object, as in "
                "`keras.losses.MeanAbsoluteError()`."
            )
        self.loss = loss

    def call(self, batch):
        name = type(self).__name__
        scores = ops.expand_dims(_scores_of_pairs(batch, name), 1)
        ratings = ops.expand_dims(_ratings(batch, name), 1)
        losses = self.loss.call(ratings, scores)
        if not losses.shape:
            raise ValueError(
                "The loss must return one value per example. Received: "
                f"{type(self.loss).__name__}, whose `call` returns a scalar."
            )
        return ops.reshape(losses, (-1,))

    def get_config(self):
        loss = keras.saving.serialize_keras_object(self.loss)
        return {**super().get_config(), "loss": loss}

    @classmethod
    def from_config(cls, config):
        loss = keras.saving.deserialize_keras_object(config["loss"])
        return cls(**{**config, "loss": loss})


def _scores_of_pairs(batch, objective):
    """The dot product of each user and its candidate, `(batch,)`."""
    rows = one_positive_each(batch, objective)
    vectors = as_float32(batch.lookup(rows))
    return ops.sum(as_float32(batch.user_vectors) * vectors, axis=1)


def _ratings(batch, objective):
    if batch.ratings is None:
        raise ValueError(
            f"`{objective}` needs a rating for every example, and this data "
            "has none. Use the objective 'full_softmax' or "
            "'in_batch_softmax', which learn from the pairs alone."
        )
    return as_float32(batch.ratings)
