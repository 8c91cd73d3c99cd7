"""Embedding tables, histories, features, and the towers that read them."""

from keras_dp_retrieval.towers.base import (
    HistoryTower,
    history_tower,
    latest,
    takes_lists,
)
from keras_dp_retrieval.towers.embedding import RowEmbedding
from keras_dp_retrieval.towers.feature_lookup import FeatureLookup
from keras_dp_retrieval.towers.feature_tower import FeatureTower
from keras_dp_retrieval.towers.histories import Histories
from keras_dp_retrieval.towers.id_history import IdHistoryTower
from keras_dp_retrieval.towers.recency import RecencyTower
from keras_dp_retrieval.towers.sequence import SequenceTower

__all__ = [
    "FeatureLookup",
    "FeatureTower",
    "Histories",
    "HistoryTower",
    "IdHistoryTower",
    "RecencyTower",
    "RowEmbedding",
    "SequenceTower",
    "history_tower",
    "latest",
    "takes_lists",
]
