"""The cold part of an evaluation: who and what training knows, or does not."""

import dataclasses
import math

import numpy as np

from keras_dp_retrieval.metrics.metric_sums import UserSums

WARM_USERS, COLD_USERS = "warm_users", "cold_users"
WARM_CANDIDATES, COLD_CANDIDATES = "warm_candidates", "cold_candidates"
AMONG_COLD = "cold_among_cold"

# What the keys of a result begin with.
GROUPS = (WARM_USERS, COLD_USERS, WARM_CANDIDATES, COLD_CANDIDATES, AMONG_COLD)


@dataclasses.dataclass(frozen=True, eq=False)
class ColdGroups:
    """Which users and candidates are cold: without interactions in train.

    Attributes:
        cold_users: bool, shape `(num_users,)`, of the users evaluated.
        cold_candidates: bool, shape `(num_candidates,)`.
        num_held_out: int64, shape `(num_users,)`: of each user's held-out
            candidates those that are cold.
    """

    cold_users: np.ndarray
    cold_candidates: np.ndarray
    num_held_out: np.ndarray

    @classmethod
    def of(cls, data, user_rows, held_out) -> "ColdGroups":
        """The groups of a data set.

        Args:
            data: As in `evaluate`.
            user_rows: int `(num_users,)`. Who is evaluated.
            held_out: int64. The pairs, as `RankingTask.held_out`.
        """
        is_cold = np.asarray(data.candidate_counts("train")) == 0
        users, candidates = np.divmod(held_out, data.num_candidates)
        num_cold = np.bincount(
            users[is_cold[candidates]], minlength=user_rows.max() + 1
        )
        return cls(
            _without_training(data, user_rows), is_cold, num_cold[user_rows]
        )


def _without_training(data, user_rows) -> np.ndarray:
    if hasattr(data, "user_counts"):
        return np.asarray(data.user_counts("train"))[user_rows] == 0
    return ~np.isin(user_rows, data.ratings("train").user_rows)


class ColdSums:
    """What an evaluation adds up for each of `GROUPS`.

    Args:
        groups: `ColdGroups`.
        num_ks: int.
    """

    def __init__(self, groups: ColdGroups, num_ks: int):
        self._groups = groups
        self._sums = {name: UserSums.zeros(num_ks) for name in GROUPS}

    def add(self, ks, part, rows, hits, num_held_out, hits_among_cold) -> None:
        """Adds the lists of some users.

        Args:
            ks: ints. Lengths at which the lists are cut.
            part: slice. Which of the users evaluated they are.
            rows: int32 `(batch, list_length)`. The lists, padded with -1.
            hits: bool, likewise. What of a list was held out.
            num_held_out: int `(batch,)`.
            hits_among_cold: bool `(batch, another length)`. The same of the
                lists of cold candidates.
        """
        groups = self._groups
        is_cold = groups.cold_users[part]
        # A list's padding is no hit.
        cold_hits = hits & groups.cold_candidates[rows]
        num_cold = groups.num_held_out[part]
        num_warm = num_held_out - num_cold
        for name, chosen, of_list, number in (
            (WARM_USERS, ~is_cold, hits, num_held_out),
            (COLD_USERS, is_cold, hits, num_held_out),
            (WARM_CANDIDATES, num_warm > 0, hits & ~cold_hits, num_warm),
            (COLD_CANDIDATES, num_cold > 0, cold_hits, num_cold),
            (AMONG_COLD, num_cold > 0, hits_among_cold, num_cold),
        ):
            self._sums[name].add(ks, of_list[chosen], number[chosen])

    def means(self, ks, real, shown) -> dict[str, float]:
        """The cold part of the result of `evaluate`, over all processes.

        Args:
            ks: As in `add`.
            real: bool `(num_candidates,)`. Which rows are candidates.
            shown: bool `(num_ks, num_candidates)`. Recommended to anyone.
        """
        result, numbers = {}, {}
        is_cold = self._groups.cold_candidates
        members = {WARM_CANDIDATES: real & ~is_cold}
        members[COLD_CANDIDATES] = real & is_cold
        for name in GROUPS:
            sums = self._sums[name].over_processes()
            numbers[name] = float(sums.num_users[0])
            for index, k in enumerate(ks):
                for metric, value in sums.means(index).items():
                    result[f"{name}_{metric}_at_{k}"] = value
                if name in members:
                    result[f"{name}_coverage_at_{k}"] = _share(
                        shown[index], members[name]
                    )
        for name in (WARM_USERS, COLD_USERS):
            result[f"num_{name}"] = numbers[name]
        for name, is_in in members.items():
            result[f"num_users_of_{name}"] = numbers[name]
            result[f"num_{name}"] = float(is_in.sum())
        return result


def _share(shown, members) -> float:
    number = members.sum()
    return float((shown & members).sum() / number) if number else math.nan
