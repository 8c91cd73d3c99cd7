"""The interaction history of each user."""

import dataclasses

import numpy as np

from keras_dp_retrieval.data.orders import user_order
from keras_dp_retrieval.data.padding import PADDING, pad_indices
from keras_dp_retrieval.data.ratings import Ratings, check_rows


@dataclasses.dataclass(frozen=True, eq=False)
class Interactions:
    """Interaction histories: candidate rows of each user, in time order.

    The candidates of user row `u` are
    `candidate_rows[indptr[u]:indptr[u + 1]]`. Without timestamps they stand
    in the order they came in.

    Args:
        indptr: `(num_users + 1,)` int64, from 0, never falling.
        candidate_rows: `(nnz,)` int32.
    """

    indptr: np.ndarray
    candidate_rows: np.ndarray

    def __post_init__(self):
        indptr = np.asarray(self.indptr, np.int64)
        candidate_rows = np.asarray(self.candidate_rows)
        check_rows("candidate_rows", candidate_rows)
        if (
            not len(indptr)
            or indptr[0] != 0
            or indptr[-1] != len(candidate_rows)
            or (np.diff(indptr) < 0).any()
        ):
            raise ValueError(
                "`indptr` must rise from 0 to the number of candidate rows, "
                f"{len(candidate_rows)}. Received: {indptr}."
            )
        object.__setattr__(self, "indptr", indptr)
        object.__setattr__(
            self, "candidate_rows", candidate_rows.astype(np.int32, copy=False)
        )

    @classmethod
    def from_ratings(cls, ratings: Ratings, num_users: int) -> "Interactions":
        """Groups interactions by user.

        Args:
            ratings: `Ratings`. Time order is by their timestamps, entries of
                one time in the order they came in.
            num_users: int. Number of user rows.
        """
        if len(ratings) and ratings.user_rows.max() >= num_users:
            raise ValueError(
                "`num_users` must be greater than every user row. Received: "
                f"num_users={num_users} and row {ratings.user_rows.max()}."
            )
        order = user_order(ratings)
        lengths = np.bincount(ratings.user_rows, minlength=num_users)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        return cls(indptr, ratings.candidate_rows[order])

    def followed_by(self, later: "Interactions") -> "Interactions":
        """Returns each user's interactions, and then the later ones.

        Who is in one of the two alone has no interactions in the other.
        """
        num_users = max(self.num_users, later.num_users)
        first, second = (
            np.pad(one.indptr, (0, num_users - one.num_users), "edge")
            for one in (self, later)
        )
        rows = np.empty(len(self) + len(later), np.int32)
        # An entry moves by the number of the other's that stand before it.
        moved = np.arange(len(self)) + np.repeat(second[:-1], np.diff(first))
        rows[moved] = self.candidate_rows
        moved = np.arange(len(later)) + np.repeat(first[1:], np.diff(second))
        rows[moved] = later.candidate_rows
        return Interactions(first + second, rows)

    def latest(self, num: int) -> "Interactions":
        """Returns the last `num` interactions of each user, or all there are.

        Args:
            num: int, at least 0.
        """
        lengths = np.diff(self.indptr)
        dropped = np.repeat(np.maximum(lengths - num, 0), lengths)
        indices = np.arange(len(self)) - np.repeat(self.indptr[:-1], lengths)
        indptr = np.concatenate([[0], np.cumsum(np.minimum(lengths, num))])
        return Interactions(indptr, self.candidate_rows[indices >= dropped])

    @property
    def num_users(self) -> int:
        """Number of user rows, those without interactions included."""
        return len(self.indptr) - 1

    def __len__(self) -> int:
        return len(self.candidate_rows)

    def of(self, user_rows) -> list[np.ndarray]:
        """Returns the candidate rows of each user, oldest first."""
        rows = self._checked(user_rows)
        starts, ends = self.indptr[rows], self.indptr[rows + 1]
        return [
            self.candidate_rows[start:end]
            for start, end in zip(starts, ends, strict=True)
        ]

    def padded(self, user_rows, max_length: int | None = None) -> np.ndarray:
        """Returns `(batch, longest)` int32 candidate rows, oldest first.

        Args:
            user_rows: `(batch,)` int.
            max_length: Optional int. Keeps only this many, the latest.

        Returns:
            Lists padded at the end with -1. `longest` is the length of the
            longest list that is kept, and 1 if all are empty.
        """
        rows = self._checked(user_rows)
        starts, ends = self.indptr[rows], self.indptr[rows + 1]
        if max_length is not None:
            starts = np.maximum(starts, ends - max_length)
        longest = int(max((ends - starts).max(initial=0), 1))
        indices, mask = pad_indices(ends - starts, longest)
        padded = np.full(mask.shape, PADDING, np.int32)
        padded[mask] = self.candidate_rows[(starts[:, None] + indices)[mask]]
        return padded

    def candidate_counts(self, num_candidates: int) -> np.ndarray:
        """Returns `(num_candidates,)` int64: how often each row occurs."""
        return np.bincount(self.candidate_rows, minlength=num_candidates)

    def _checked(self, user_rows) -> np.ndarray:
        rows = np.asarray(user_rows)
        if rows.size and not (rows.min() >= 0 and rows.max() < self.num_users):
            raise ValueError(
                f"User rows must lie between 0 and {self.num_users - 1}. "
                f"Received: {rows.min()} to {rows.max()}."
            )
        return rows.astype(np.int64)
