"""Callbacks for any `model.fit`."""

from keras_dp_retrieval.callbacks.distribution_aware import (
    DistributionAwareCallback,
)
from keras_dp_retrieval.callbacks.fresh_ties import FreshTies
from keras_dp_retrieval.callbacks.retrieval_metrics import RetrievalMetrics

__all__ = ["DistributionAwareCallback", "FreshTies", "RetrievalMetrics"]
