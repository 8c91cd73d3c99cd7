"""Who has had what: raw columns, dense rows, and the way between them.

A *raw id* is what the user of the library has: an int64 or a string. A *row*
is its dense int32 index into an embedding table. Row 0 is "unknown"; the known
ids have the rows 1 to n, in sorted order. Ids that come later go to the end.
"""

import dataclasses
from collections.abc import Mapping

import keras
import numpy as np

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.columns import (
    MAX_ID_LENGTH,
    id_column,
    rating_column,
)
from keras_dp_retrieval.data.timestamps import timestamp_column

PADDING = -1  # Fills up lists of rows; no row is negative.


@dataclasses.dataclass(frozen=True, eq=False)
class RawRatings:
    """Columns as they came in, checked: one entry per interaction.

    Args:
        user_ids: `(n,)` int64 or string. See `id_column`.
        candidate_ids: `(n,)` int64 or string.
        ratings: Optional `(n,)` float32, all finite.
        timestamps: Optional `(n,)` whole numbers or dates, as int64; only
            their order is used. See `timestamp_column`.
        name: str. How error messages call these columns.

    Attributes:
        has_dates: bool. Whether the timestamps came as dates.

    Raises:
        ValueError: If a column is missing values, has another length or type
            than it should, if a candidate has the id -1 or `""`, or if there
            are no rows at all.
    """

    user_ids: np.ndarray
    candidate_ids: np.ndarray
    ratings: np.ndarray | None = None
    timestamps: np.ndarray | None = None
    name: str = "interactions"
    has_dates: bool = dataclasses.field(init=False, default=False)

    def __post_init__(self):
        columns = {
            "user_ids": id_column("user_ids", self.user_ids),
            "candidate_ids": id_column("candidate_ids", self.candidate_ids),
        }
        refuse_filler("candidate_ids", columns["candidate_ids"])
        if self.ratings is not None:
            columns["ratings"] = rating_column(self.ratings)
        if self.timestamps is not None:
            times, has_dates = timestamp_column(self.timestamps)
            columns["timestamps"] = times
            object.__setattr__(self, "has_dates", has_dates)
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"All columns of the {self.name} must have one entry per "
                f"interaction. Received the lengths: {lengths}."
            )
        if not len(columns["user_ids"]):
            raise ValueError(
                f"The {self.name} must have at least one row. Received: none."
            )
        for name, column in columns.items():
            object.__setattr__(self, name, column)

    def __len__(self) -> int:
        return len(self.user_ids)

    def times(self) -> np.ndarray | None:
        """Returns the timestamps as what they came: dates, or numbers."""
        if self.has_dates and self.timestamps is not None:
            return self.timestamps.view("datetime64[ns]")
        return self.timestamps

    def check_same_clock(self, other: "RawRatings") -> None:
        """Raises a ValueError if one has dates and the other has numbers."""
        if self.timestamps is None or other.timestamps is None:
            return
        if self.has_dates != other.has_dates:
            kinds = {True: "dates", False: "numbers"}
            raise ValueError(
                "Timestamps must be dates in all parts, or numbers in all. "
                f"Received: {kinds[self.has_dates]} in the {self.name}, and "
                f"{kinds[other.has_dates]} in the {other.name}."
            )

    def check_range(self, low: float, high: float) -> None:
        """Raises a ValueError if a rating lies outside `low` to `high`."""
        if self.ratings is None:
            return
        outside = (self.ratings < low) | (self.ratings > high)
        if outside.any():
            row = int(np.argmax(outside))
            raise ValueError(
                f"Ratings must lie between {low:g} and {high:g}. Received "
                f"{int(outside.sum())} outside, the first in row {row}: "
                f"{self.ratings[row]:g}. Correct them, or state the scale: "
                "`rating_range=(low, high)`."
            )


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """The known raw ids, and which row of a table each of them has.

    Args:
        ids: `(n,)` int64 or string, distinct: the ids of the rows 1 to n.
            `from_ids` sorts them; those of a vocabulary that was `extended`
            stand in the order in which they came.
    """

    ids: np.ndarray
    _sorted: np.ndarray = dataclasses.field(init=False, repr=False)
    _sorted_rows: np.ndarray = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        ids = id_column("ids", self.ids, _longest(self.ids))
        order = np.argsort(ids, kind="stable")
        in_order = ids[order]
        if (in_order[1:] == in_order[:-1]).any():
            raise ValueError(
                "`ids` of a vocabulary must be distinct. Use "
                "`Vocabulary.from_ids(ids)` to make them so."
            )
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "_sorted", in_order)
        rows = (order + 1).astype(np.int32)
        object.__setattr__(self, "_sorted_rows", rows)

    @classmethod
    def from_ids(cls, *raw_ids) -> "Vocabulary":
        """Returns the vocabulary of all ids in one or more columns."""
        columns = [np.unique(id_column("ids", ids)) for ids in raw_ids]
        if len({column.dtype.kind for column in columns}) > 1:
            raise ValueError(
                "Ids must be all whole numbers or all strings. Received: "
                f"{[str(column.dtype) for column in columns]}."
            )
        return cls(np.unique(np.concatenate(columns)))

    def extended(self, raw_ids) -> "Vocabulary":
        """Returns a vocabulary with new ids, on rows after all the others.

        Args:
            raw_ids: `(n,)`. Distinct ids that are not known yet.
        """
        new = id_column("ids", raw_ids)
        if not len(new):
            return self
        known = new[self.rows(new) > 0]
        if len(known) or len(np.unique(new)) < len(new):
            such = f", such as {_checks.shown(known[0])}" if len(known) else ""
            raise ValueError(
                f"New ids must be distinct and not known yet. Received: "
                f"{len(new)} ids, {len(known)} of them known{such}, and "
                f"{len(new) - len(np.unique(new))} repeated. Leave the known "
                "ones out with `ids[vocabulary.rows(ids) == 0]`."
            )
        if not len(self.ids):
            return Vocabulary(new)
        return Vocabulary(np.concatenate([self.ids, new]))

    @property
    def num_rows(self) -> int:
        """Rows of a table for these ids: one each, and row 0 for unknown."""
        return len(self.ids) + 1

    def rows(self, raw_ids) -> np.ndarray:
        """Returns the int32 row of each raw id, 0 for an unknown one.

        Args:
            raw_ids: `(n,)`, or a NumPy array of any shape.
        """
        if isinstance(raw_ids, np.ndarray) and raw_ids.ndim != 1:
            return self.rows(raw_ids.reshape(-1)).reshape(raw_ids.shape)
        raw_ids = id_column("ids", raw_ids, _longest(self.ids))
        if not len(self.ids) or not len(raw_ids):
            return np.zeros(len(raw_ids), np.int32)
        if raw_ids.dtype.kind != self.ids.dtype.kind:
            raise ValueError(
                f"The known ids are {_kind(self.ids)}. Received: "
                f"{_kind(raw_ids)}, such as {_checks.shown(raw_ids[0])}."
            )
        places = np.searchsorted(self._sorted, raw_ids)
        places = np.minimum(places, len(self.ids) - 1)
        known = self._sorted[places] == raw_ids
        return np.where(known, self._sorted_rows[places], np.int32(0))

    def raw_ids(self, rows) -> np.ndarray:
        """Returns the raw id of each row.

        Row 0 gives 0 or `""`, and padding (a negative row) -1 or `""`.
        """
        rows = np.asarray(rows)
        if rows.size and rows.max() >= self.num_rows:
            raise ValueError(
                f"Rows must be less than {self.num_rows}. Received: "
                f"{int(rows.max())}."
            )
        strings = self.ids.dtype.kind == "U"
        of_unknown, of_padding = ("", "") if strings else (0, PADDING)
        filler = np.where(rows < 0, of_padding, of_unknown)
        if not len(self.ids):
            return filler
        # The ids that were asked for, never a copy of them all.
        return np.where(rows > 0, self.ids[np.maximum(rows, 1) - 1], filler)

    def get_config(self) -> dict:
        return {"ids": self.ids.tolist()}

    @classmethod
    def from_config(cls, config: Mapping) -> "Vocabulary":
        return cls(config["ids"])


def _longest(ids) -> int:
    """The length that ids may have beside these."""
    # An array of strings, such as one of a saved model, has its width already.
    is_wide = isinstance(ids, np.ndarray) and ids.dtype.kind == "U"
    return max(MAX_ID_LENGTH, ids.dtype.itemsize // 4 if is_wide else 0)


def refuse_filler(name: str, ids: np.ndarray) -> None:
    """Raises a ValueError if a candidate has an id that fills up lists."""
    filler = "" if ids.dtype.kind == "U" else PADDING
    if (ids == filler).any():
        row = int(np.argmax(ids == filler))
        raise ValueError(
            f"`{name}` must not be {filler!r}, which fills up lists that are "
            f"shorter than `k`. Received: {filler!r} in row {row}. Leave it "
            "out if it stands for a missing id, or give the candidate another."
        )


def _kind(ids: np.ndarray) -> str:
    return "strings" if ids.dtype.kind == "U" else "whole numbers"


@dataclasses.dataclass(frozen=True, eq=False)
class Ratings:
    """Interactions as rows: frozen columns of one length.

    Args:
        user_rows: `(n,)` int32.
        candidate_rows: `(n,)` int32.
        ratings: Optional `(n,)` float32 on the scale they came in.
        timestamps: Optional `(n,)` int64.
    """

    user_rows: np.ndarray
    candidate_rows: np.ndarray
    ratings: np.ndarray | None = None
    timestamps: np.ndarray | None = None

    def __post_init__(self):
        dtypes = {
            "user_rows": np.int32,
            "candidate_rows": np.int32,
            "ratings": np.float32,
            "timestamps": np.int64,
        }
        for name, dtype in dtypes.items():
            column = getattr(self, name)
            if column is None and name in ("ratings", "timestamps"):
                continue
            column = np.asarray(column)
            if column.shape != (len(self.user_rows),):
                raise ValueError(
                    f"`{name}` must have the shape ({len(self.user_rows)},). "
                    f"Received: {column.shape}."
                )
            if name.endswith("_rows"):
                _check_rows(name, column)
            object.__setattr__(self, name, column.astype(dtype, copy=False))
        if self.ratings is not None and not np.isfinite(self.ratings).all():
            raise ValueError("`ratings` must be finite numbers.")

    def __len__(self) -> int:
        return len(self.user_rows)

    def take(self, indices) -> "Ratings":
        """Returns the entries at these places, in this order."""
        return Ratings(
            self.user_rows[indices],
            self.candidate_rows[indices],
            None if self.ratings is None else self.ratings[indices],
            None if self.timestamps is None else self.timestamps[indices],
        )

    def concatenate(self, other: "Ratings") -> "Ratings":
        """Returns these entries, then the other's.

        A column that only one of the two has is left out; the data set sees
        to it that this does not happen.
        """

        def join(name):
            first, second = getattr(self, name), getattr(other, name)
            if first is None or second is None:
                return None
            return np.concatenate([first, second])

        return Ratings(*(join(f.name) for f in dataclasses.fields(self)))


def _check_rows(name: str, rows: np.ndarray) -> None:
    # Before any cast: int64 rows would be cut to 32 bits without a word, and
    # JAX answers a row outside its table with NaN.
    if rows.size and not (
        rows.dtype.kind in "iu"
        and rows.min() >= 0
        and rows.max() <= np.iinfo(np.int32).max
    ):
        raise ValueError(
            f"`{name}` must be whole numbers from 0 to 2**31 - 1. Received: "
            f"{rows.dtype} from {rows.min()} to {rows.max()}."
        )


def user_order(ratings: Ratings) -> np.ndarray:
    """Places of the interactions by user, and in time order within each.

    Those of one time, or all without timestamps, stay as they came in.
    """
    if ratings.timestamps is None:
        return np.argsort(ratings.user_rows, kind="stable")
    return np.lexsort((ratings.timestamps, ratings.user_rows))


@dataclasses.dataclass(frozen=True, eq=False)
class Interactions:
    """Who has had what: for each user row, candidate rows in time order.

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
        _check_rows("candidate_rows", candidate_rows)
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
            Lists filled up at the end with -1. `longest` is the length of the
            longest list that is kept, and 1 if all are empty.
        """
        rows = self._checked(user_rows)
        starts, ends = self.indptr[rows], self.indptr[rows + 1]
        if max_length is not None:
            starts = np.maximum(starts, ends - max_length)
        longest = int(max((ends - starts).max(initial=0), 1))
        places = starts[:, None] + np.arange(longest)
        inside = places < ends[:, None]
        padded = np.full(places.shape, PADDING, np.int32)
        padded[inside] = self.candidate_rows[places[inside]]
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
