"""Searches with KerasTuner in which every trial runs on all devices.

Importing this imports `keras_tuner`.
"""

from keras_dp_retrieval.tuning.hypermodel import RetrievalHyperModel
from keras_dp_retrieval.tuning.results import SearchResult, TrialResult
from keras_dp_retrieval.tuning.run import search

__all__ = ["RetrievalHyperModel", "SearchResult", "TrialResult", "search"]
