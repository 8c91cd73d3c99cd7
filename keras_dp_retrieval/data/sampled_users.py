"""Some users of a data set, to evaluate by."""

from typing import Any

import numpy as np

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.ratings import Ratings


class SampledUsers:
    """One part of a data set, with the interactions of some users alone.

    All else is that of the data set.

    Args:
        data: A data set.
        split: str. The part.
        ratings: `Ratings` of these users in the part.
        seen: `Interactions` of these users before the part; those of others
            may be among them.
    """

    def __init__(self, data: Any, split: str, ratings, seen):
        self._data = data
        self._split = split
        self._ratings = ratings
        self._seen = seen

    def ratings(self, split: str):
        """Returns the interactions of these users in the part."""
        self._check(split)
        return self._ratings

    def seen_before(self, split: str):
        """The interaction history of these users before the part."""
        self._check(split)
        return self._seen

    def _check(self, split: str) -> None:
        _checks.one_of("split", split, (self._split,))

    def __getattr__(self, name):
        if name.startswith("__") or name == "_data":  # Of a copy to be.
            raise AttributeError(name)
        return getattr(self._data, name)


def of_some_users(data: Any, split: str, max_users: int | None, seed: int):
    """Returns a data set, or what it holds of some users.

    Args:
        data: A data set, as `keras_dp_retrieval.evaluate` takes it.
        split: str. The part that the users have interactions in.
        max_users: Optional int. How many users at most; None for all.
        seed: int. Of the draw: the same users for the same part and seed.

    Returns:
        `data`, if it holds no more users, or `SampledUsers`.
    """
    seed = _checks.non_negative_int("seed", seed)
    if max_users is None:
        return data
    max_users = _checks.positive_int("max_users", max_users)
    if hasattr(data, "of_some_users"):
        return data.of_some_users(split, max_users, seed)
    ratings = data.ratings(split)
    if ratings is None:
        return data
    user_rows = np.asarray(ratings.user_rows)
    chosen = chosen_users(np.unique(user_rows), max_users, seed)
    is_chosen = np.isin(user_rows, chosen)
    if is_chosen.all():
        return data
    candidate_rows = np.asarray(ratings.candidate_rows)
    kept = Ratings(user_rows[is_chosen], candidate_rows[is_chosen])
    return SampledUsers(data, split, kept, data.seen_before(split))


def chosen_users(user_rows: np.ndarray, max_users: int, seed: int):
    """Returns at most so many of distinct rows, drawn at random, sorted."""
    if len(user_rows) <= max_users:
        return user_rows
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(user_rows, max_users, replace=False))
