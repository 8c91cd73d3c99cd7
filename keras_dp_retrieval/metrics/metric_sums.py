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
class UserSums:
    """Sums of `USER_METRICS` over users.

    Attributes:
        of_users: float64, shape `(num_ks, 5)`.
        num_users: float64, shape `(1,)`.
    """

    of_users: np.ndarray
    num_users: np.ndarray

    @classmethod
    def zeros(cls, num_ks: int) -> "UserSums":
        return cls(np.zeros((num_ks, len(USER_METRICS))), np.zeros(1))

    def add(self, ks, hits, num_held_out) -> None:
        """Adds the lists of some users; arguments as in `MetricSums.add`."""
        self.num_users += len(hits)
        for index, k in enumerate(ks):
            self.of_users[index] += [
                recall_at_k(hits, num_held_out, k).sum(),
                ndcg_at_k(hits, num_held_out, k).sum(),
                mrr_at_k(hits, k).sum(),
                hit_rate_at_k(hits, k).sum(),
                precision_at_k(hits, k).sum(),
            ]

    def over_processes(self) -> "UserSums":
        """The sums of all processes."""
        if distribution.process_count() == 1:
            return self
        from keras_dp_retrieval._jax import ranking

        return UserSums(
            ranking.sum_over_processes(self.of_users),
            ranking.sum_over_processes(self.num_users),
        )

    def means(self, index: int) -> dict[str, float]:
        """The means for the `k` of this index, by name; NaN without users."""
        num_users = float(self.num_users[0])
        return {
            name: float(total / num_users) if num_users else math.nan
            for name, total in zip(
                USER_METRICS, self.of_users[index], strict=True
            )
        }


@dataclasses.dataclass
class MetricSums:
    """Sums over users, chunks and processes, divided once at the end.

    Attributes:
        users: `UserSums`.
        of_lists: float64, shape `(num_ks, 2)`: the sum of the percentiles of
            what was recommended, and how many recommendations there were.
        shown: bool, shape `(num_ks, num_candidates)`: recommended to anyone.
    """

    users: UserSums
    of_lists: np.ndarray
    shown: np.ndarray

    @classmethod
    def zeros(cls, num_ks: int, num_candidates: int) -> "MetricSums":
        return cls(
            users=UserSums.zeros(num_ks),
            of_lists=np.zeros((num_ks, 2)),
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
        self.users.add(ks, hits, num_held_out)
        filled = rows >= 0
        for index, k in enumerate(ks):
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
            users=self.users.over_processes(),
            of_lists=ranking.sum_over_processes(self.of_lists),
            shown=ranking.any_over_processes(self.shown),
        )

    def means(self, ks, num_real: int) -> dict[str, float]:
        """The result of `evaluate`: here, once, the sums are divided.

        Args:
            ks: As in `add`.
            num_real: int. How many rows are real candidates.
        """
        result = {}
        for index, k in enumerate(ks):
            for name, value in self.users.means(index).items():
                result[f"{name}_at_{k}"] = value
            shown = self.shown[index].sum() / max(num_real, 1)
            result[f"coverage_at_{k}"] = float(shown)
            total, count = self.of_lists[index].tolist()
            result[f"popularity_percentile_at_{k}"] = (
                total / count if count else math.nan
            )
        return {**result, "num_users": float(self.users.num_users[0])}
