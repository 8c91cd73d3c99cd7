"""The interactions of all users in time order, those of one time shuffled."""

import numpy as np

from keras_dp_retrieval.data.orders import user_order
from keras_dp_retrieval.data.ratings import Ratings


class Timeline:
    """All interactions, by user and then by time.

    Those of one user and one time have no order, though they stand in one.
    Which of them came next is then an accident, which a model learns by heart;
    so they can be shuffled in every epoch.

    Args:
        ratings: `Ratings`. Without timestamps, in the order they came in.
        num_users: int. Rows of the user table.
        seed: int. Of the shuffling.

    Attributes:
        user_rows: int32 `(n,)`.
        lengths: int32 `(n,)`. The user's interactions before it.
        candidate_rows: int32 `(n,)`. As `Interactions` has them, until some
            are shuffled.
    """

    def __init__(self, ratings: Ratings, num_users: int, seed: int):
        ratings = ratings.take(user_order(ratings))
        counts = np.bincount(ratings.user_rows, minlength=num_users)
        starts = np.cumsum(counts) - counts
        indices = np.arange(len(ratings))
        self.user_rows = ratings.user_rows
        self.lengths = (indices - starts[ratings.user_rows]).astype("int32")
        self.candidate_rows = ratings.candidate_rows.copy()
        self._in_file_order = ratings.candidate_rows
        self._seed = seed
        is_new = np.ones(len(ratings) + 1, bool)
        if ratings.timestamps is not None:
            is_new[1:-1] = (self.lengths[1:] == 0) | (
                np.diff(np.asarray(ratings.timestamps)) != 0
            )
        self._tied = np.flatnonzero(~(is_new[:-1] & is_new[1:]))
        self._groups = np.cumsum(is_new)[self._tied]

    def shuffle_ties(self, epoch: int) -> None:
        """Shuffles what has one time: an order drawn from seed and epoch."""
        rng = np.random.default_rng([self._seed, epoch])
        order = np.lexsort((rng.random(len(self._tied)), self._groups))
        self.candidate_rows[self._tied] = self._in_file_order[self._tied[order]]

    def restore_order(self) -> None:
        """Restores the order in which the interactions came in."""
        self.candidate_rows[:] = self._in_file_order
