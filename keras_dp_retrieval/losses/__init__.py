"""Objectives: what a retrieval model is trained to do.

An objective takes one batch of vectors and returns one loss per example. The
model weights and averages them. All objectives compute in float32, whatever the
model's compute dtype is.
"""

import keras

from keras_dp_retrieval.losses.bucketed_softmax import BucketedSoftmax
from keras_dp_retrieval.losses.full_softmax import FullSoftmax
from keras_dp_retrieval.losses.in_batch_softmax import InBatchSoftmax
from keras_dp_retrieval.losses.objective import Objective, ScoredBatch
from keras_dp_retrieval.losses.rating import PairwiseObjective, RatingError

__all__ = [
    "BucketedSoftmax",
    "FullSoftmax",
    "InBatchSoftmax",
    "Objective",
    "PairwiseObjective",
    "RatingError",
    "ScoredBatch",
    "get",
]

OBJECTIVES = {
    "rating": RatingError,
    "full_softmax": FullSoftmax,
    "in_batch_softmax": InBatchSoftmax,
    "bucketed_softmax": BucketedSoftmax,
}


# Up to this many candidates the logits of the whole catalogue are cheap.
MAX_CANDIDATES_OF_FULL_SOFTMAX = 100_000


def default_name(num_candidates: int) -> str:
    """Returns the name of the softmax objective for a table of this size."""
    is_small = num_candidates <= MAX_CANDIDATES_OF_FULL_SOFTMAX
    return "full_softmax" if is_small else "in_batch_softmax"


def get(identifier) -> Objective:
    """Retrieves an objective by name, config or instance.

    Args:
        identifier: `"rating"`, `"full_softmax"`, `"in_batch_softmax"` or
            `"bucketed_softmax"`; an `Objective`; a `keras.losses.Loss`, which
            becomes a `PairwiseObjective`; or the config of either, as
            `keras.saving.serialize_keras_object` makes it.

    Raises:
        ValueError: If it is none of these.
    """
    found = identifier
    if isinstance(found, str) and found in OBJECTIVES:
        found = OBJECTIVES[found]()
    elif isinstance(found, dict) and "class_name" in found:
        found = keras.saving.deserialize_keras_object(found)
    if isinstance(found, keras.losses.Loss):
        found = PairwiseObjective(found)
    if not isinstance(found, Objective):
        names = ", ".join(repr(name) for name in OBJECTIVES)
        raise ValueError(
            f"`objective` must be one of {names}, an `Objective`, a "
            "`keras.losses.Loss`, or the serialized config of either. "
            f"Received: objective={identifier!r}."
        )
    return found
