"""Callbacks for `model.fit`."""

from keras_dp_retrieval.callbacks.distribution_aware import (
    DistributionAwareCallback,
)

__all__ = ["DistributionAwareCallback"]
