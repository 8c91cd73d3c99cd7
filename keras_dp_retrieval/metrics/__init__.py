"""How good are the recommendations, and does the model learn at all?"""

from keras_dp_retrieval.metrics.chance import (
    ChanceAlarm,
    chance_level,
    warn_if_at_chance,
)
from keras_dp_retrieval.metrics.cold_groups import GROUPS
from keras_dp_retrieval.metrics.evaluated_data import check_data
from keras_dp_retrieval.metrics.evaluation import evaluate
from keras_dp_retrieval.metrics.list_metrics import (
    hit_rate_at_k,
    mrr_at_k,
    ndcg_at_k,
    popularity_percentiles,
    precision_at_k,
    recall_at_k,
)
from keras_dp_retrieval.metrics.protocol import check_function, check_protocol
from keras_dp_retrieval.metrics.ranking_task import RankingTask

__all__ = [
    "GROUPS",
    "ChanceAlarm",
    "RankingTask",
    "chance_level",
    "check_data",
    "check_function",
    "check_protocol",
    "evaluate",
    "hit_rate_at_k",
    "mrr_at_k",
    "ndcg_at_k",
    "popularity_percentiles",
    "precision_at_k",
    "recall_at_k",
    "warn_if_at_chance",
]
