"""Callbacks for any `model.fit`."""

from keras_dp_retrieval.callbacks.distribution_aware import (
    DistributionAwareCallback,
)
from keras_dp_retrieval.callbacks.resume_training import ResumeTraining
from keras_dp_retrieval.callbacks.retrieval_metrics import RetrievalMetrics
from keras_dp_retrieval.callbacks.shuffle_ties import ShuffleTies

__all__ = [
    "DistributionAwareCallback",
    "ResumeTraining",
    "RetrievalMetrics",
    "ShuffleTies",
]
