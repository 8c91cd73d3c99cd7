"""Whether a `SequenceTower` is tried in the place of a `RecencyTower`."""

import dataclasses
import math

import numpy as np

from keras_dp_retrieval.data.orders import user_order
from keras_dp_retrieval.recipe.hyperparameters import Recipe
from keras_dp_retrieval.recipe.shape import (
    choose_recipe,
    has_user_features,
)
from keras_dp_retrieval.recipe.trials import MIN_Z_SCORE, Choice

# Shorter histories hold few items whose order could say more than the latest.
LEAST_LENGTH = 8

# Of more, the order that a transformer would learn from is an accident of the
# file. Made-up data in which order matters is better off with one at 50 %, and
# without at 74 %; so is MovieLens 100K, at 76 %.
MOST_TIED = 0.5

# What either tower is trained with, and is not of use to the other.
OF_ONE_TOWER = (
    "batch_size",
    "epochs",
    "learning_rate",
    "weight_decay",
    "max_length",
)


def reason_against(data, recipe: Recipe, given) -> str | None:
    """Why a `SequenceTower` is not tried; None where it is.

    Args:
        data: `RetrievalDataset` to train on.
        recipe: `Recipe`, before trials.
        given: Names of the overrides.
    """
    if recipe.order != "recency":
        return f"order={recipe.order!r}"
    for name in ("order", *OF_ONE_TOWER):
        if name in given:
            return f"`{name}` is given, for a `RecencyTower`"
    if has_user_features(data, recipe.use_features):
        return "features of users would make it read a history many times"
    ratings = data.ratings("train")
    lengths = np.bincount(ratings.user_rows)
    median = np.median(lengths[lengths > 0])
    if median < LEAST_LENGTH:
        return (
            f"half of the histories have {median:g} interactions or fewer, "
            f"and it needs {LEAST_LENGTH}"
        )
    tied = share_of_tied(ratings)
    if tied > MOST_TIED:
        return (
            f"{tied:.0%} of the interactions have the time of another one of "
            f"their user, more than {MOST_TIED:.0%}, so that their order is "
            "not known"
        )
    return None


def share_of_tied(ratings) -> float:
    """The share of interactions with another of their user at the same time.

    0 without timestamps, where they are in the order in which they came.

    Args:
        ratings: `Ratings`.
    """
    if ratings.timestamps is None or len(ratings) < 2:
        return 0.0
    order = user_order(ratings)
    users, times = ratings.user_rows[order], ratings.timestamps[order]
    is_same = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
    tied = np.append(is_same, False) | np.append(False, is_same)
    return float(tied.mean())


def sequence_recipe(data, recipe: Recipe, given) -> Recipe:
    """The recipe with a `SequenceTower`, and the settings that it needs.

    Args:
        data: `RetrievalDataset` to train on.
        recipe: `Recipe` with a `RecencyTower`, with a temperature.
        given: dict. The overrides.
    """
    return choose_recipe(
        data,
        **{
            **given,
            "order": "sequence",
            "objective": recipe.objective,
            "temperature": recipe.temperature,
            "use_features": recipe.use_features,
        },
    )


@dataclasses.dataclass(frozen=True)
class TowerDecision:
    """Which tower reads the histories, and why.

    Attributes:
        recency: `Choice` of the `RecencyTower`.
        sequence: `Choice` of the `SequenceTower`.
        gain: float. NDCG@10 of the latter minus that of the former.
        error: float. Standard error of this difference, paired by user.
    """

    recency: Choice
    sequence: Choice
    gain: float
    error: float

    @classmethod
    def of(cls, recency, sequence) -> "TowerDecision":
        """Of two results of `trials.choose`."""
        gains = sequence[1] - recency[1]
        return cls(
            recency[0],
            sequence[0],
            gain=float(gains.mean()),
            error=float(gains.std() / math.sqrt(len(gains))),
        )

    @property
    def takes_sequence(self) -> bool:
        """Whether the `SequenceTower` is significantly better."""
        return self.gain > MIN_Z_SCORE * self.error

    def __str__(self) -> str:
        chosen, other = "RecencyTower", "SequenceTower"
        if self.takes_sequence:
            chosen, other = other, chosen
        return (
            f"{chosen}, not {other}: NDCG@10 is {self.recency.ndcg:.4f} with a "
            f"RecencyTower and {self.sequence.ndcg:.4f} with a SequenceTower, "
            f"{MIN_Z_SCORE:g} standard errors of the difference are "
            f"{MIN_Z_SCORE * self.error:.4f}"
        )
