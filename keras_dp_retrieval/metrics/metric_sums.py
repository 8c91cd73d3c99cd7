"""What an evaluation adds up, so that its result depends on no order."""

import dataclasses
import math

import numpy as np

from keras_dp_retrieval import distribution
from keras_dp_retrieval.metrics.list_metrics import (
    hit_rate_at_k,
    mrr_at_k,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)

# Means over users; the functions of these names, followed by `_at_k`.
USER_METRICS = ("recall", "ndcg", "mrr", "hit_rate", "precision")


@dataclasses.dataclass
class MetricSums:
    """Sums over users, chunks and processes, divided once at the end.

    Attributes:
        of_users: float64, shape `(num_ks, 5)`: sums of `USER_METRICS`.
        of_lists: float64, shape `(num_ks, 2)`: the sum of the percentiles of
            what was recommended, and how many recommendations there were.
        num_users: float64, shape `()`.
        shown: bool, shape `(num_ks, num_candidates)`: recommended to anyone.
    """

    of_users: np.ndarray
    of_lists: np.ndarray
    num_users: np.ndarray
    shown: np.ndarray

    @classmethod
    def zeros(cls, num_ks: int, num_candidates: int) -> "MetricSums":
        return cls(
            of_users=np.zeros((num_ks, len(USER_METRICS))),
            of_lists=np.zeros((num_ks, 2)),
            num_users=np.zeros(1),
            shown=np.zeros((num_ks, num_candidates), bool),
        )

    def add(self, ks, hits, num_held_out, rows, percentiles) -> None:
        """Adds the lists of some users.

        Args:
            ks: ints. Lengths at which the lists are cut.
            hits: bool `(batch, list_length)`. What of a list was held out.
            num_held_out: int `(batch,)`.
            rows: int32 `(batch, list_length)`. The lists, padded with -1.
            percentiles: float64 `(num_candidates,)`. How popular each is.
        """
        filled = rows >= 0
        self.num_users += len(rows)
        for index, k in enumerate(ks):
            self.of_users[index] += [
                recall_at_k(hits, num_held_out, k).sum(),
                ndcg_at_k(hits, num_held_out, k).sum(),
                mrr_at_k(hits, k).sum(),
                hit_rate_at_k(hits, k).sum(),
                precision_at_k(hits, k).sum(),
            ]
            recommended = rows[:, :k][filled[:, :k]]
            self.shown[index, recommended] = True
            self.of_lists[index] += [
                percentiles[recommended].sum(),
                len(recommended),
            ]

    def over_processes(self) -> "MetricSums":
        """The sums of all processes."""
        if distribution.process_count() == 1:
            return self
        from keras_dp_retrieval._jax import ranking

        return MetricSums(
            of_users=ranking.sum_over_processes(self.of_users),
            of_lists=ranking.sum_over_processes(self.of_lists),
            num_users=ranking.sum_over_processes(self.num_users),
            shown=ranking.any_over_processes(self.shown),
        )

    def means(self, ks, num_real: int) -> dict[str, float]:
        """The result of `evaluate`: here, once, the sums are divided.

        Args:
            ks: As in `add`.
            num_real: int. How many rows are real candidates.
        """
        num_users = float(self.num_users[0])
        result = {}
        for index, k in enumerate(ks):
            for name, total in zip(
                USER_METRICS, self.of_users[index], strict=True
            ):
                result[f"{name}_at_{k}"] = float(total / num_users)
            shown = self.shown[index].sum() / max(num_real, 1)
            result[f"coverage_at_{k}"] = float(shown)
            total, count = self.of_lists[index].tolist()
            result[f"popularity_percentile_at_{k}"] = (
                total / count if count else math.nan
            )
        return {**result, "num_users": num_users}
