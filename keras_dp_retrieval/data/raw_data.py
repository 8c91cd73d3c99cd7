"""Interactions as they came in: checked columns of ids, ratings and times."""

import dataclasses

import numpy as np

from keras_dp_retrieval.data.encoded_ids import EncodedIds, encode_both
from keras_dp_retrieval.data.features.feature_table import FeatureTable
from keras_dp_retrieval.data.float_columns import (
    check_rating_range,
    rating_column,
    weight_column,
)
from keras_dp_retrieval.data.padding import refuse_padding_ids
from keras_dp_retrieval.data.timestamps import timestamp_column

COLUMNS = ("user_ids", "candidate_ids", "ratings", "timestamps", "weights")


class RawRatings:
    """Columns as they came in, checked: one entry per interaction.

    Args:
        user_ids: `(n,)` whole numbers or strings, or `EncodedIds`. See
            `columns.id_column`.
        candidate_ids: `(n,)`, likewise.
        ratings: Optional `(n,)` float32, all finite.
        timestamps: Optional `(n,)` whole numbers or dates, as int64; only
            their order is used. See `timestamp_column`.
        weights: Optional `(n,)` float32, all finite and greater than 0.
        name: str. How error messages call these columns.

    Attributes:
        users: `EncodedIds`.
        candidates: `EncodedIds`.
        has_dates: bool. Whether the timestamps came as dates.

    Raises:
        ValueError: If a column is missing values, has another length or type
            than it should, if a candidate has the id -1 or `""`, or if there
            are no rows at all.
    """

    def __init__(
        self,
        user_ids,
        candidate_ids,
        ratings=None,
        timestamps=None,
        weights=None,
        name: str = "interactions",
    ):
        self.name = name
        self.users, self.candidates = encode_both(
            {"user_ids": user_ids, "candidate_ids": candidate_ids}
        )
        _refuse_padding(self.candidates)
        self.ratings = None if ratings is None else rating_column(ratings)
        self.timestamps, self.has_dates = None, False
        if timestamps is not None:
            self.timestamps, self.has_dates = timestamp_column(timestamps)
        self.weights = None if weights is None else weight_column(weights)
        for column in (self.ratings, self.timestamps, self.weights):
            if column is not None:  # So nobody need copy it.
                column.flags.writeable = False
        columns = {
            "user_ids": self.users,
            "candidate_ids": self.candidates,
            "ratings": self.ratings,
            "timestamps": self.timestamps,
            "weights": self.weights,
        }
        lengths = {
            name: len(column)
            for name, column in columns.items()
            if column is not None
        }
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"All columns of the {self.name} must have one entry per "
                f"interaction. Received the lengths: {lengths}."
            )
        if not len(self):
            raise ValueError(
                f"The {self.name} must have at least one row. Received: none."
            )

    def __len__(self) -> int:
        return len(self.users)

    @property
    def user_ids(self) -> np.ndarray:
        """The raw ids, `(n,)` int64 or string."""
        return self.users.decoded()

    @property
    def candidate_ids(self) -> np.ndarray:
        """The raw ids, `(n,)` int64 or string."""
        return self.candidates.decoded()

    def take(self, indices) -> "RawRatings":
        """Returns the entries at these indices, in this order; one at least."""

        def taken(column):
            return None if column is None else column[indices]

        return RawRatings(
            self.users.take(indices),
            self.candidates.take(indices),
            taken(self.ratings),
            taken(self.times()),
            taken(self.weights),
            self.name,
        )

    def with_weights(self, weights) -> "RawRatings":
        """Returns the same entries with other weights."""
        return RawRatings(
            self.users,
            self.candidates,
            self.ratings,
            self.times(),
            weights,
            self.name,
        )

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
        if self.ratings is not None:
            check_rating_range(self.ratings, low, high, f" in the {self.name}")


@dataclasses.dataclass(frozen=True, eq=False)
class RawData:
    """What a data set is made of: interactions, titles and features.

    Args:
        interactions: `RawRatings`, to be split.
        validation: Optional `RawRatings`, used as they are.
        test: Optional `RawRatings`, used as they are.
        titles: dict. Raw candidate id to title.
        user_features: Optional `FeatureTable`.
        candidate_features: Optional `FeatureTable`.
    """

    interactions: RawRatings
    validation: RawRatings | None = None
    test: RawRatings | None = None
    titles: dict = dataclasses.field(default_factory=dict)
    user_features: FeatureTable | None = None
    candidate_features: FeatureTable | None = None


def _refuse_padding(candidates: EncodedIds) -> None:
    try:
        refuse_padding_ids("candidate_ids", candidates.ids)
    except ValueError:  # Now with the row, not with the place of the id.
        refuse_padding_ids("candidate_ids", candidates.decoded())
        raise
