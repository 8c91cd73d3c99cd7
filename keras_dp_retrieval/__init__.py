"""Keras-native components for data-parallel two-tower retrieval."""

import os

# Data parallelism in Keras 3 exists on JAX alone. This only has a say where
# neither the user nor an earlier `import keras` has chosen.
os.environ.setdefault("KERAS_BACKEND", "jax")

from keras_dp_retrieval import _garbage

with _garbage.paused():  # The first of these imports Keras.
    from keras_dp_retrieval import losses
from keras_dp_retrieval._version import __version__
from keras_dp_retrieval.callbacks import (
    DistributionAwareCallback,
    ResumeTraining,
    RetrievalMetrics,
    ShuffleTies,
)
from keras_dp_retrieval.compiled_programs import compilation_cache
from keras_dp_retrieval.data.dataset import RetrievalDataset
from keras_dp_retrieval.data.features import Features
from keras_dp_retrieval.data.movielens import MovieLensRetrievalDataset
from keras_dp_retrieval.distribution import data_parallel, reserve_threads
from keras_dp_retrieval.index import CandidateIndex, FaissIndex
from keras_dp_retrieval.losses import (
    BucketedSoftmax,
    FullSoftmax,
    InBatchSoftmax,
    Objective,
    PairwiseObjective,
    RatingError,
)
from keras_dp_retrieval.metrics import evaluate
from keras_dp_retrieval.model import TwoTowerRetrieval
from keras_dp_retrieval.processes import initialize_processes
from keras_dp_retrieval.recipe import Recipe, fit_recipe
from keras_dp_retrieval.serving.exporting import export_retrieval
from keras_dp_retrieval.towers import (
    FeatureLookup,
    FeatureTower,
    Histories,
    HistoryTower,
    IdHistoryTower,
    RecencyTower,
    RowEmbedding,
    SequenceTower,
)
from keras_dp_retrieval.warning_categories import (
    DataWarning,
    ResumeWarning,
    RetrievalWarning,
    TrainingWarning,
)

# Whoever sets a distribution by hand starts the devices by himself.
reserve_threads()
del reserve_threads

__all__ = [
    "BucketedSoftmax",
    "CandidateIndex",
    "DataWarning",
    "DistributionAwareCallback",
    "FaissIndex",
    "FeatureLookup",
    "FeatureTower",
    "Features",
    "FullSoftmax",
    "Histories",
    "HistoryTower",
    "IdHistoryTower",
    "InBatchSoftmax",
    "MovieLensRetrievalDataset",
    "Objective",
    "PairwiseObjective",
    "RatingError",
    "RecencyTower",
    "Recipe",
    "ResumeTraining",
    "ResumeWarning",
    "RetrievalDataset",
    "RetrievalHyperModel",
    "RetrievalMetrics",
    "RetrievalWarning",
    "RowEmbedding",
    "SequenceTower",
    "ShuffleTies",
    "TrainingWarning",
    "TwoTowerRetrieval",
    "__version__",
    "compilation_cache",
    "data_parallel",
    "evaluate",
    "export_retrieval",
    "fit_recipe",
    "initialize_processes",
    "losses",
    "search",
]


def __getattr__(name):
    # KerasTuner takes seconds to import, and not everybody searches.
    if name in ("RetrievalHyperModel", "search"):
        from keras_dp_retrieval import tuning

        return getattr(tuning, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
