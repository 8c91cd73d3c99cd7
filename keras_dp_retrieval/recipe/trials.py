"""What the shape of the data cannot tell is tried out on held-out data."""

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np

from keras_dp_retrieval.metrics import RankingTask

# Temperatures are tried a factor of this apart, and so far from the first.
STEP = 1.4
MOST_STEPS = 3

# Of `TwoTowerRetrieval.popularity_offset`, in temperatures: what is added to
# the logits of training.
OFFSETS = (0.2, 0.4, 0.6, 0.8)

# Standard errors that a difference may come to by chance. The best of a dozen
# figures is lucky more often than one of two.
MOST_CHANCE = 2.0

# Users who are ranked to choose by; of more, so many at random.
MOST_USERS = 10_000
K = 10


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was tried, and how well it did.

    Attributes:
        temperature: float. Of the softmax.
        popularity_offset: float. Of the model.
        ndcg: float. NDCG@10 on what was held out.
    """

    temperature: float
    popularity_offset: float
    ndcg: float

    def __str__(self) -> str:
        return (
            f"temperature {self.temperature:.3g}, popularity offset "
            f"{self.popularity_offset:.3g}"
        )


@dataclasses.dataclass(frozen=True)
class Decision:
    """What was chosen, and why it is not the best of what was tried.

    Attributes:
        first: The `Choice` that the trials began with.
        best: The `Choice` with the best NDCG@10.
        gain: float. The NDCG@10 of the best over that of the first.
        error: float. The standard error of this difference, paired by user.
    """

    first: Choice
    best: Choice
    gain: float
    error: float

    @property
    def chosen(self) -> Choice:
        """The best, if it is better than chance would have it."""
        is_clear = self.gain > MOST_CHANCE * self.error
        return self.best if is_clear else self.first

    def __str__(self) -> str:
        errors = (
            f"{MOST_CHANCE:g} standard errors of the difference, paired by "
            f"user ({MOST_CHANCE * self.error:.4f})"
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
    data,
    first: float,
    *,
    temperatures: bool = True,
    offsets: bool = True,
    report: Callable = lambda choice: None,
    explain: Callable = lambda decision: None,
) -> Choice:
    """Chooses temperature and popularity offset by NDCG@10.

    Climbs from the temperature `first` in steps of a factor of 1.4, down if
    that is better and else up, until it gets worse. A model that is trained
    is tried with rising popularity offsets, which costs no training. `first`
    with the first offset stays unless the best choice is better by more than
    `MOST_CHANCE` standard errors of the difference, paired by user.

    Args:
        train: `train(temperature)` -> a model trained on the train part.
        data: Data set with a validation part.
        first: float. The temperature to start from.
        temperatures: bool. Whether others than `first` are tried.
        offsets: bool. Whether offsets are tried, from 0 on. If not, models
            keep the one they are trained with.
        report: Called with the best `Choice` of each training.
        explain: Called with the `Decision` in the end.
    """
    task = _task(data)
    tried = []  # `(Choice, NDCG@10 of each user)`.

    def attempt(temperature):
        model = train(temperature)
        found = list(_climb_offsets(model, task, temperature, offsets))
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
    return decision.chosen


def _ndcg(pair: tuple) -> float:
    return pair[0].ndcg


def _climb(attempt, first: float, best: float, step: float) -> bool:
    """Goes on in steps while that is better; whether it ever was."""
    temperature, is_better = first, False
    for _ in range(MOST_STEPS):
        temperature = round(temperature * step, 4)
        found = attempt(temperature)
        if found <= best:
            break
        best, is_better = found, True
    return is_better


def _climb_offsets(model, task, temperature, offsets) -> Iterator[tuple]:
    best = -1.0
    for offset in (0.0, *OFFSETS):
        if offsets:
            model.popularity_offset = round(offset * temperature, 5)
        of_users = task.ndcg_of_users(model, K)
        ndcg = float(of_users.mean())
        yield Choice(temperature, model.popularity_offset, ndcg), of_users
        if ndcg <= best or not offsets:
            return
        best = ndcg


def _task(data) -> RankingTask:
    """Ranks at most `MOST_USERS` users of the validation part."""
    task = RankingTask.prepare(data, "validation", (K,))
    if len(task.user_rows) <= MOST_USERS:
        return task
    draw = np.random.default_rng(0).permutation(len(task.user_rows))
    some = np.sort(draw[:MOST_USERS])  # They stand in the order of chunks.
    return dataclasses.replace(
        task,
        user_rows=task.user_rows[some],
        num_held_out=task.num_held_out[some],
    )
