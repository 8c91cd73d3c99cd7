"""FeatureSchema: which columns there are, and how each is encoded."""

import concurrent.futures
import os
from collections.abc import Mapping

import keras
import numpy as np

from keras_dp_retrieval.data.features.column_encoders import (
    ENCODERS,
    NO_NUMBER,
    ColumnEncoder,
)
from keras_dp_retrieval.data.features.feature_table import FeatureTable

_FEW_ROWS = 1000


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class FeatureSchema:
    """The columns of features by name, and the encoder of each.

    Args:
        encoders: dict from names to encoders.
    """

    def __init__(self, encoders: Mapping[str, ColumnEncoder]):
        self.encoders = dict(encoders)

    @classmethod
    def fit(cls, table: FeatureTable, is_trained=None) -> "FeatureSchema":
        """Returns a schema that is fitted on some rows of a table.

        Args:
            table: `FeatureTable`.
            is_trained: Optional bool `(n,)`: the rows to learn from, as a rule
                those of ids in the train part. By default all.
        """
        rows = None
        if is_trained is not None and not np.all(is_trained):
            rows = np.flatnonzero(is_trained)

        def fit(name):
            column = table.columns[name]
            if rows is not None:
                column = column.take(rows)
            return ENCODERS[table.kinds[name]].fit(name, column)

        return cls(_of_each(fit, table.columns))

    def encode(self, columns: Mapping) -> dict[str, np.ndarray]:
        """Encodes columns of features.

        Args:
            columns: dict, or a frame, with the columns of this schema, `(n,)`
                each. One that is absent is missing in every row.

        Returns:
            dict from the names to int32 or float32, `(n,)` or `(n, width)`.

        Raises:
            ValueError: If there is none of the columns, or others, if their
                lengths differ, or one is of another kind.
        """
        return self._encoded(self._as_arrow(columns))

    def encode_known(
        self, columns: Mapping
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """As `encode`, and which rows have a value that is known, `(n,)` bool.

        Args:
            columns: As in `encode`.
        """
        arrow = self._as_arrow(columns)
        encoded = self._encoded(arrow)
        known = np.zeros(_length(arrow), bool)
        for name, column in arrow.items():
            encoder = self.encoders[name]
            known |= ~encoder.is_missing(name, column, encoded[name])
        return encoded, known

    def _encoded(self, arrow: Mapping) -> dict[str, np.ndarray]:
        empty = self.unknown(_length(arrow))

        def encode(name):
            if name not in arrow:
                return empty[name]
            return self.encoders[name].encode(name, arrow[name])

        if len(next(iter(empty.values()))) < _FEW_ROWS:  # Threads take longer.
            return {name: encode(name) for name in self.encoders}
        return _of_each(encode, self.encoders)

    def _as_arrow(self, columns) -> dict:
        """The columns as Arrow's, if they are such and of one length."""
        from keras_dp_retrieval.data.features import feature_reading

        named = feature_reading.named_columns_of(columns, "Features")
        self._check_names(named)
        arrow = {
            name: feature_reading.as_arrow(name, column)
            for name, column in named.items()
        }
        lengths = {name: len(column) for name, column in arrow.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                "Columns of features must have one length. Received: "
                f"{lengths}."
            )
        return arrow

    def unknown(self, num_rows: int) -> dict[str, np.ndarray]:
        """What rows look like of which nothing is known."""
        return {
            name: np.full(num_rows, NO_NUMBER)
            if encoder.is_number
            else np.zeros(
                (num_rows, 1) if encoder.is_pooled else num_rows, np.int32
            )
            for name, encoder in self.encoders.items()
        }

    def _check_names(self, named) -> None:
        others = sorted(set(map(str, named)) - set(self.encoders))
        if others or not named:
            raise ValueError(
                "Features must have the columns that were trained with: "
                f"{sorted(self.encoders)}. Received: {sorted(map(str, named))}."
            )

    def get_config(self) -> dict:
        serialize = keras.saving.serialize_keras_object
        return {
            # Pairs, as JSON may sort the keys of a dict.
            "encoders": [
                [name, serialize(one)] for name, one in self.encoders.items()
            ]
        }

    @classmethod
    def from_config(cls, config) -> "FeatureSchema":
        deserialize = keras.saving.deserialize_keras_object
        return cls({name: deserialize(c) for name, c in config["encoders"]})


def _of_each(call, names) -> dict:
    """What a function returns of each name; columns in turn on all cores."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip(names, threads.map(call, names), strict=True))


def _length(columns: Mapping) -> int:
    return len(next(iter(columns.values())))
