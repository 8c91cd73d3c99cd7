"""Keras-native components for data-parallel two-tower retrieval."""

import os

# Data parallelism in Keras 3 exists on JAX alone. This only has a say where
# neither the user nor an earlier `import keras` has chosen.
os.environ.setdefault("KERAS_BACKEND", "jax")

from keras_dp_retrieval import losses
from keras_dp_retrieval._version import __version__
from keras_dp_retrieval.callbacks import (
    DistributionAwareCallback,
    RetrievalMetrics,
)
from keras_dp_retrieval.data.dataset import RetrievalDataset
from keras_dp_retrieval.data.movielens import MovieLensRetrievalDataset
from keras_dp_retrieval.distribution import data_parallel, reserve_threads
from keras_dp_retrieval.index import CandidateIndex
from keras_dp_retrieval.losses import (
    FullSoftmax,
    InBatchSoftmax,
    Objective,
    PairwiseObjective,
    RatingError,
)
from keras_dp_retrieval.metrics import evaluate
from keras_dp_retrieval.model import TwoTowerRetrieval
from keras_dp_retrieval.recipe import fit_recipe
from keras_dp_retrieval.towers import IdHistoryTower, RecencyTower
from keras_dp_retrieval.towers.embedding import RowEmbedding
from keras_dp_retrieval.towers.histories import Histories

# Whoever sets a distribution by hand starts the devices by himself.
reserve_threads()
del reserve_threads

__all__ = [
    "CandidateIndex",
    "DistributionAwareCallback",
    "FullSoftmax",
    "Histories",
    "IdHistoryTower",
    "InBatchSoftmax",
    "MovieLensRetrievalDataset",
    "Objective",
    "PairwiseObjective",
    "RatingError",
    "RecencyTower",
    "RetrievalDataset",
    "RetrievalHyperModel",
    "RetrievalMetrics",
    "RowEmbedding",
    "TwoTowerRetrieval",
    "__version__",
    "data_parallel",
    "evaluate",
    "fit_recipe",
    "losses",
]


def __getattr__(name):
    # KerasTuner takes seconds to import, and not everybody searches.
    if name == "RetrievalHyperModel":
        from keras_dp_retrieval.tuning import RetrievalHyperModel

        return RetrievalHyperModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
