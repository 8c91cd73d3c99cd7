"""Encoders: a column of features as integers or floats.

Each is fitted on a column, as a rule that of the ids in the train part; holds
what it learned as plain numbers and strings; and encodes any column alike,
without TensorFlow. `feature_arrays.py` does the work, with Arrow.
"""

import keras
import numpy as np

from keras_dp_retrieval import _checks

# Words that occur in one row alone tell nothing of other rows.
LEAST_ROWS_OF_A_WORD = 2
MOST_WORDS = 20_000


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

    def is_missing(self, name: str, column) -> np.ndarray:
        """Which rows tell nothing, bool `(n,)`: empty, or not known."""
        is_missing = np.equal(self.encode(name, column), 0)
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
    case. It knows the words that occur in two rows or more of the column that
    it was fitted on, at most the 20,000 most frequent.
    """

    kind = "text"
    is_pooled = True

    @classmethod
    def fit(cls, name, column):
        from keras_dp_retrieval.data.features import feature_arrays

        words = feature_arrays.words(name, column)
        return cls(
            feature_arrays.frequent(words, LEAST_ROWS_OF_A_WORD, MOST_WORDS)
        )

    def encode(self, name, column):
        from keras_dp_retrieval.data.features import feature_arrays

        words = feature_arrays.words(name, column)
        return feature_arrays.padded_indices(words, self.values)


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class NumericEncoder(ColumnEncoder):
    """Standardized numbers: float32 `(n,)`, 0 (the mean) if missing.

    Args:
        mean: float. Of the column that it was fitted on.
        stddev: float. Its standard deviation; 1 for a constant column.
    """

    kind = "numeric"
    is_number = True

    def __init__(self, mean, stddev):
        self.mean = _checks.number_between("mean", mean)
        self.stddev = _checks.number_between("stddev", stddev, 0, open_low=True)

    @classmethod
    def fit(cls, name, column):
        return cls(*_mean_and_stddev(cls._numbers(name, column)))

    def encode(self, name, column):
        numbers = self._numbers(name, column)
        scaled = (numbers - self.mean) / self.stddev
        return np.nan_to_num(scaled, nan=0.0).astype(np.float32)

    def is_missing(self, name, column):
        return np.isnan(self._numbers(name, column))  # The mean is a value.

    @staticmethod
    def _numbers(name, column) -> np.ndarray:
        """float64 `(n,)`, NaN where missing."""
        from keras_dp_retrieval.data.features import feature_arrays

        return feature_arrays.numbers(name, column)

    def get_config(self) -> dict:
        return {"mean": self.mean, "stddev": self.stddev}


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class DateEncoder(NumericEncoder):
    """Standardized days since 1970: float32 `(n,)`, 0 if missing."""

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


def _mean_and_stddev(numbers: np.ndarray) -> tuple[float, float]:
    numbers = numbers[~np.isnan(numbers)]
    if not len(numbers):
        return 0.0, 1.0
    mean, stddev = float(numbers.mean()), float(numbers.std())
    # Of a constant column, rounding may leave a little.
    is_constant = stddev <= 1e-12 * max(abs(mean), 1e-300)
    return mean, 1.0 if is_constant else stddev
