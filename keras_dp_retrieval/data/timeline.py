"""The interactions of all users in time order, those of one time shuffled."""

import numpy as np

from keras_dp_retrieval.data.interactions import Interactions
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
        earlier: Optional `Interactions` that come before these, whose times
            are not known, and whose order is left alone.

    Attributes:
        user_rows: int32 `(n,)`, of `ratings`.
        lengths: int32 `(n,)`. The user's interactions before it.
        indices: int64 `(n,)`. Its index in `candidate_rows`.
        candidate_rows: int32, of `earlier` and of `ratings`. As
            `Interactions` has them, until some are shuffled.
    """

    def __init__(
        self,
        ratings: Ratings,
        num_users: int,
        seed: int,
        earlier: Interactions | None = None,
    ):
        ratings = ratings.take(user_order(ratings))
        counts = np.bincount(ratings.user_rows, minlength=num_users)
        indptr = np.concatenate([[0], np.cumsum(counts)])
        everything = Interactions(indptr, ratings.candidate_rows)
        self.user_rows = ratings.user_rows
        self.indices = np.arange(len(ratings))
        if earlier is not None:
            everything = earlier.followed_by(everything)
            before = earlier.indptr[1:]
            self.indices += np.pad(
                before, (0, num_users - len(before)), "edge"
            )[self.user_rows]
        starts = everything.indptr[self.user_rows]
        self.lengths = (self.indices - starts).astype("int32")
        self.candidate_rows = everything.candidate_rows.copy()
        self._in_file_order = everything.candidate_rows
        self._seed = seed
        is_new = np.ones(len(ratings) + 1, bool)
        if ratings.timestamps is not None:
            is_new[1:-1] = (np.diff(self.user_rows) != 0) | (
                np.diff(np.asarray(ratings.timestamps)) != 0
            )
        tied = np.flatnonzero(~(is_new[:-1] & is_new[1:]))
        self._tied = self.indices[tied]
        self._groups = np.cumsum(is_new)[tied]

    def shuffle_ties(self, epoch: int) -> None:
        """Shuffles what has one time: an order drawn from seed and epoch."""
        rng = np.random.default_rng([self._seed, epoch])
        order = np.lexsort((rng.random(len(self._tied)), self._groups))
        self.candidate_rows[self._tied] = self._in_file_order[self._tied[order]]

    def restore_order(self) -> None:
        """Restores the order in which the interactions came in."""
        self.candidate_rows[:] = self._in_file_order
