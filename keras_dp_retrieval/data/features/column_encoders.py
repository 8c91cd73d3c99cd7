"""Encoders: a column of features as integers or floats.

Each is fitted on a column, as a rule that of the ids in the train part; holds
what it learned as plain numbers and strings; and encodes any column alike,
without TensorFlow. `feature_arrays.py` does the work, with Arrow.
"""

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import _checks

# A word must be in so many of 1,000 rows, and in any case in two rows: one
# alone tells nothing of others. Rarer words are learned by heart: of titles in
# MovieLens 100K, those in two rows or more made cold items worse (NDCG@10
# 0.24) than no words at all (0.32), those in ten or more better (0.34).
LEAST_SHARE_OF_A_WORD = 0.01
LEAST_ROWS_OF_A_WORD = (2, 10)
MOST_WORDS = 20_000

# Bins of numbers: with a vector a bin, a quantity need not act linearly.
MOST_BINS = 32
LEAST_ROWS_OF_A_BIN = 20  # With fewer they say which row it is.

# A number that is missing: for towers the mean, 0.0, which it is equal to. The
# sign tells it from a number that is the mean.
NO_NUMBER = np.float32(-0.0)


class ColumnEncoder:
    """Base class of encoders; `fit` is a class method that makes one.

    Attributes:
        kind: str. The kind of column, see `Features`.
        is_pooled: bool. Whether a row may have several indices.
        is_number: bool. Whether it makes floats, not indices.
        num_indices: int. Indices are less than this; 0 for numbers.
    """

    kind = ""
    is_pooled = False
    is_number = False
    num_indices = 0

    @classmethod
    def fit(cls, name: str, column) -> "ColumnEncoder":
        """Returns an encoder that knows what is in this column.

        Args:
            name: str. How errors call the column.
            column: `pyarrow.ChunkedArray` `(n,)`.
        """
        raise NotImplementedError

    def encode(self, name: str, column) -> np.ndarray:
        """Returns the column as int32 or float32, `(n,)` or `(n, width)`."""
        raise NotImplementedError

    def is_missing(self, name: str, column, encoded) -> np.ndarray:
        """Which rows have no known value, bool `(n,)`.

        Args:
            name: str. How errors call the column.
            column: `pyarrow.ChunkedArray` `(n,)`.
            encoded: The same column as `encode` returns it.
        """
        is_missing = np.equal(encoded, 0)
        return np.all(is_missing, axis=1) if self.is_pooled else is_missing

    def get_config(self) -> dict:
        raise NotImplementedError

    @classmethod
    def from_config(cls, config) -> "ColumnEncoder":
        return cls(**config)

    def __str__(self) -> str:
        return self.kind


class _Values(ColumnEncoder):
    """Encodes values by their index in a list; 0 is all others.

    Args:
        values: list of str, distinct: those with the indices 1 to n.
    """

    def __init__(self, values):
        self.values = [str(value) for value in values]
        if len(set(self.values)) < len(self.values):
            raise ValueError(
                "`values` must be distinct. Received: "
                f"{len(self.values) - len(set(self.values))} repeated."
            )

    @property
    def num_indices(self) -> int:  # type: ignore[override]
        return len(self.values) + 1

    def get_config(self) -> dict:
        return {"values": self.values}

    def __str__(self) -> str:
        return f"{self.kind}, {len(self.values):,}"


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class CategoricalEncoder(_Values):
    """One of several values: int32 `(n,)`, 0 if missing or not known."""

    kind = "categorical"

    @classmethod
    def fit(cls, name, column):
        from keras_dp_retrieval.data.features import feature_arrays

        return cls(feature_arrays.distinct(name, column))

    def encode(self, name, column):
        from keras_dp_retrieval.data.features import feature_arrays

        return feature_arrays.indices_of(name, column, self.values)


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class MultiLabelEncoder(_Values):
    """Any number of labels: int32 `(n, width)`, padded with 0.

    Each label of a row counts once. Labels that are not known are left out, so
    that a row may have none, as where the cell is empty.
    """

    kind = "multi_label"
    is_pooled = True

    @classmethod
    def fit(cls, name, column):
        from keras_dp_retrieval.data.features import feature_arrays

        labels = feature_arrays.labels(name, column)
        return cls(feature_arrays.frequent(labels, 1, None))

    def encode(self, name, column):
        from keras_dp_retrieval.data.features import feature_arrays

        labels = feature_arrays.labels(name, column)
        return feature_arrays.padded_indices(labels, self.values)


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class TextEncoder(_Values):
    """Words: int32 `(n, width)`, padded with 0.

    A text is the set of its words: letters and digits in a row, in lower
    case. It knows the words that occur in 1 % of the rows that it was fitted
    on, but in no fewer than two and in ten at most, and of them the 20,000 most
    frequent.
    """

    kind = "text"
    is_pooled = True

    @classmethod
    def fit(cls, name, column):
        from keras_dp_retrieval.data.features import feature_arrays

        words = feature_arrays.words(name, column)
        low, high = LEAST_ROWS_OF_A_WORD
        share = round(len(column) * LEAST_SHARE_OF_A_WORD)
        least = min(max(share, low), high)
        return cls(feature_arrays.frequent(words, least, MOST_WORDS))

    def encode(self, name, column):
        from keras_dp_retrieval.data.features import feature_arrays

        words = feature_arrays.words(name, column)
        return feature_arrays.padded_indices(words, self.values)


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class NumericEncoder(ColumnEncoder):
    """Standardized numbers: float32 `(n,)`, -0.0 (the mean) if missing.

    Args:
        mean: float. Of the column that it was fitted on.
        stddev: float. Its standard deviation; 1 for a constant column.
        boundaries: Rising floats, standardized: they divide the column into
            bins of about equally many rows, 20 or more; 32 bins at most.
    """

    kind = "numeric"
    is_number = True

    def __init__(self, mean, stddev, boundaries=()):
        self.mean = _checks.number_between("mean", mean)
        self.stddev = _checks.number_between("stddev", stddev, 0, open_low=True)
        self.boundaries = [
            _checks.number_between("boundaries", float(one))
            for one in boundaries
        ]

    @classmethod
    def fit(cls, name, column):
        numbers = cls._numbers(name, column)
        numbers = numbers[~np.isnan(numbers)]
        mean, stddev = _mean_and_stddev(numbers)
        return cls(mean, stddev, (_boundaries(numbers) - mean) / stddev)

    def encode(self, name, column):
        numbers = self._numbers(name, column)
        scaled = ((numbers - self.mean) / self.stddev).astype(np.float32)
        scaled += np.float32(0)  # Of -0.0, it makes 0.0.
        return np.where(np.isnan(scaled), NO_NUMBER, scaled)

    def is_missing(self, name, column, encoded):
        return np.isnan(self._numbers(name, column))  # The mean is a value.

    @staticmethod
    def _numbers(name, column) -> np.ndarray:
        """float64 `(n,)`, NaN where missing."""
        from keras_dp_retrieval.data.features import feature_arrays

        return feature_arrays.numbers(name, column)

    def get_config(self) -> dict:
        return {
            "mean": self.mean,
            "stddev": self.stddev,
            "boundaries": self.boundaries,
        }


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class DateEncoder(NumericEncoder):
    """Standardized days since 1970: float32 `(n,)`, -0.0 if missing."""

    kind = "date"

    @staticmethod
    def _numbers(name, column) -> np.ndarray:
        from keras_dp_retrieval.data.features import feature_arrays

        return feature_arrays.days(name, column)


ENCODERS: dict[str, type[ColumnEncoder]] = {
    encoder.kind: encoder
    for encoder in (
        CategoricalEncoder,
        MultiLabelEncoder,
        TextEncoder,
        NumericEncoder,
        DateEncoder,
    )
}


def is_no_number(encoded):
    """Which of encoded numbers, tensors or arrays, are missing; bool."""
    return ops.logical_and(encoded == 0, ops.signbit(encoded))


def _mean_and_stddev(numbers: np.ndarray) -> tuple[float, float]:
    if not len(numbers):
        return 0.0, 1.0
    mean, stddev = float(numbers.mean()), float(numbers.std())
    # Of a constant column, rounding may leave a little.
    is_constant = stddev <= 1e-12 * max(abs(mean), 1e-300)
    return mean, 1.0 if is_constant else stddev


def _boundaries(numbers: np.ndarray) -> np.ndarray:
    """Between the bins of a column: in the middle of two of its values."""
    num_bins = min(MOST_BINS, len(numbers) // LEAST_ROWS_OF_A_BIN)
    if num_bins < 2:
        return np.zeros(0)
    values, counts = np.unique(numbers, return_counts=True)
    rows_up_to = np.cumsum(counts)
    size = len(numbers) / num_bins
    last = int(np.searchsorted(rows_up_to, size))  # A bin's last value.
    boundaries = []
    # A rest of less than half a bin belongs to the one before.
    while len(numbers) - rows_up_to[last] >= size / 2:
        boundaries.append((values[last] + values[last + 1]) / 2)
        following = np.searchsorted(rows_up_to, rows_up_to[last] + size)
        last = min(int(following), len(values) - 1)
    return np.array(boundaries)
