"""Interactions as they came in: checked columns of ids, ratings and times."""

import dataclasses

import numpy as np

from keras_dp_retrieval.data.columns import id_column, rating_column
from keras_dp_retrieval.data.padding import refuse_padding_ids
from keras_dp_retrieval.data.timestamps import timestamp_column

COLUMNS = ("user_ids", "candidate_ids", "ratings", "timestamps")


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
        refuse_padding_ids("candidate_ids", columns["candidate_ids"])
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

    def as_lists(self) -> dict:
        """Returns the columns by name as lists, or None where there is none."""
        columns = {name: getattr(self, name) for name in COLUMNS}
        return {
            name: None if column is None else column.tolist()
            for name, column in columns.items()
        }

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


@dataclasses.dataclass(frozen=True, eq=False)
class RawData:
    """What a data set is made of: raw interactions, and titles.

    Args:
        interactions: `RawRatings`, to be split.
        validation: Optional `RawRatings`, used as they are.
        test: Optional `RawRatings`, used as they are.
        titles: dict. Raw candidate id to title.
    """

    interactions: RawRatings
    validation: RawRatings | None = None
    test: RawRatings | None = None
    titles: dict = dataclasses.field(default_factory=dict)
