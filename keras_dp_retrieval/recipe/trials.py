"""Trials: short trainings that choose the temperature on held-out data."""

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np

from keras_dp_retrieval.recipe.held_out import HeldOut

# The ratio of neighbouring temperatures, and the trials in each direction.
STEP = 1.4
MAX_STEPS = 3
# The least and the most trainings: the first; then lower temperatures, of which
# the first may be worse; then higher ones.
NUM_TRAININGS = (3, 2 + MAX_STEPS)

# Of `TwoTowerRetrieval.popularity_weight`, in temperatures: what is added to
# the logits of training.
POPULARITY_WEIGHTS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4)

# The z-score from which on a difference is significant. Higher than for one
# comparison, as the best of about a dozen results is compared.
MIN_Z_SCORE = 2.0

K = 10


@dataclasses.dataclass(frozen=True)
class Choice:
    """One setting, and its result.

    Attributes:
        temperature: float. Temperature of the softmax.
        popularity_weight: float. `popularity_weight` of the model.
        ndcg: float. NDCG@10 on the held-out interactions.
    """

    temperature: float
    popularity_weight: float
    ndcg: float

    def __str__(self) -> str:
        return (
            f"temperature {self.temperature:.3g}, popularity weight "
            f"{self.popularity_weight:.3g}"
        )


@dataclasses.dataclass(frozen=True)
class Decision:
    """The chosen setting, and why.

    Attributes:
        first: `Choice` that the trials started from.
        best: `Choice` with the highest NDCG@10.
        gain: float. NDCG@10 of `best` minus that of `first`.
        error: float. Standard error of this difference, paired by user.
    """

    first: Choice
    best: Choice
    gain: float
    error: float

    @property
    def chosen(self) -> Choice:
        """The best, if it is significantly better than the first."""
        is_significant = self.gain > MIN_Z_SCORE * self.error
        return self.best if is_significant else self.first

    def __str__(self) -> str:
        errors = (
            f"{MIN_Z_SCORE:g} standard errors of the difference, paired by "
            f"user ({MIN_Z_SCORE * self.error:.4f})"
        )
        if self.best is self.first:
            return f"{self.first}, which nothing else did better than"
        if self.chosen is self.best:
            return (
                f"{self.best}, better than {self.first} by {self.gain:.4f}, "
                f"more than {errors}"
            )
        return (
            f"{self.first}, although {self.best} did better: by "
            f"{self.gain:.4f}, which is not more than {errors} and may be "
            "chance"
        )


def choose(
    train: Callable,
    task: HeldOut,
    first: float,
    *,
    temperatures: bool = True,
    weights: bool = True,
    report: Callable = lambda choice: None,
    explain: Callable = lambda decision: None,
) -> tuple[Choice, np.ndarray]:
    """Chooses temperature and popularity weight by NDCG@10 (hill climbing).

    Divides the temperature `first` by 1.4 until NDCG@10 gets worse; if it does
    at once, multiplies instead. Each model is evaluated with increasing
    popularity weights, which needs no training. The first setting is kept
    unless the best is better by more than `MIN_Z_SCORE` standard errors of the
    difference, paired by user.

    Args:
        train: Callable from a temperature to a model trained on the train
            part.
        task: What models are evaluated by, see `prepare`.
        first: float. The temperature to start from.
        temperatures: bool. Whether to try other temperatures.
        weights: bool. Whether to try popularity weights, from 0 on. If False,
            models keep their own.
        report: Called with the best `Choice` of each training.
        explain: Called with the `Decision`, once.

    Returns:
        `(choice, ndcg_of_users)`: the chosen `Choice`, and its NDCG@10 of each
        user.
    """
    tried = []  # `(Choice, NDCG@10 of each user)`.

    def attempt(temperature):
        model = train(temperature)
        found = list(
            _climb_popularity_weights(model, task, temperature, weights)
        )
        tried.extend(found)
        best, _ = max(found, key=_ndcg)
        report(best)
        return best.ndcg

    start = attempt(first)
    if temperatures and not _climb(attempt, first, start, 1 / STEP):
        _climb(attempt, first, start, STEP)
    plain, of_users = tried[0]
    best, best_of_users = max(tried, key=_ndcg)
    gains = best_of_users - of_users
    decision = Decision(
        first=plain,
        best=best,
        gain=float(gains.mean()),
        error=float(gains.std() / math.sqrt(len(gains))),
    )
    explain(decision)
    chosen = decision.chosen
    return chosen, of_users if chosen is plain else best_of_users


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Whether a model is better off without something.

    Attributes:
        what: str. What the other model was trained without.
        gain: float. NDCG@10 of the model without it minus that of the one
            with it.
        error: float. Standard error of this difference, paired by user.
    """

    what: str
    gain: float
    error: float

    @property
    def keeps(self) -> bool:
        """Whether it is kept: unless it is significantly better without."""
        return self.gain <= MIN_Z_SCORE * self.error

    def __str__(self) -> str:
        verb = "with" if self.keeps else "without"
        return (
            f"{verb} {self.what}: NDCG@10 changes by {self.gain:+.4f} without "
            f"them, {MIN_Z_SCORE:g} standard errors are "
            f"{MIN_Z_SCORE * self.error:.4f}"
        )


def compare(
    of_users: np.ndarray, model, task: HeldOut, what: str
) -> Comparison:
    """Compares a model with another one, trained without something.

    Args:
        of_users: `(num_users,)`. NDCG@10 of each user, as `choose` returns it.
        model: The model trained without it.
        task: As in `choose`.
        what: str. What it is, in the plural.
    """
    gains = task.ndcg_of_users(model, K) - of_users
    return Comparison(
        what,
        gain=float(gains.mean()),
        error=float(gains.std() / math.sqrt(len(gains))),
    )


def _ndcg(pair: tuple) -> float:
    return pair[0].ndcg


def _climb(attempt, first: float, best: float, step: float) -> bool:
    """Takes steps while NDCG@10 improves; returns whether it did."""
    temperature, is_better = first, False
    for _ in range(MAX_STEPS):
        temperature = round(temperature * step, 4)
        found = attempt(temperature)
        if found <= best:
            break
        best, is_better = found, True
    return is_better


def _climb_popularity_weights(
    model, task, temperature, weights
) -> Iterator[tuple]:
    best, num_worse = -1.0, 0
    for weight in (0.0, *POPULARITY_WEIGHTS):
        if weights:
            model.popularity_weight = round(weight * temperature, 5)
        of_users = task.ndcg_of_users(model, K)
        ndcg = float(of_users.mean())
        yield Choice(temperature, model.popularity_weight, ndcg), of_users
        # One that is no better may be chance.
        num_worse = num_worse + 1 if ndcg <= best else 0
        if num_worse == 2 or not weights:
            return
        best = max(best, ndcg)


def prepare(data) -> HeldOut:
    """What models are compared by, on the validation part of the data."""
    return HeldOut(data, K)
