"""Embedding tables, interaction histories, and user towers that read them."""

from keras_dp_retrieval.towers.base import HistoryTower
from keras_dp_retrieval.towers.embedding import RowEmbedding
from keras_dp_retrieval.towers.histories import Histories
from keras_dp_retrieval.towers.id_history import IdHistoryTower
from keras_dp_retrieval.towers.recency import RecencyTower

__all__ = [
    "Histories",
    "HistoryTower",
    "IdHistoryTower",
    "RecencyTower",
    "RowEmbedding",
]
