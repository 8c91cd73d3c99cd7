"""EncodedFeatures: encoded columns of features by table row."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from keras_dp_retrieval.data.features.feature_schema import FeatureSchema
from keras_dp_retrieval.data.features.feature_table import FeatureTable
from keras_dp_retrieval.data.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedFeatures:
    """Features of users or candidates, encoded, by the rows of a table.

    Args:
        schema: `FeatureSchema`.
        columns: dict from the schema's names to int32 or float32 arrays,
            `(num_rows,)` or `(num_rows, width)`. Row 0, and rows of ids
            without features, are 0: nothing is known of them.
        is_known: bool `(num_rows,)`. Rows that have features.
    """

    schema: FeatureSchema
    columns: Mapping[str, np.ndarray]
    is_known: np.ndarray

    @property
    def num_rows(self) -> int:
        return len(self.is_known)

    @property
    def bytes_per_row(self) -> dict[str, int]:
        """What each column takes for a user or candidate, in the model, too."""
        return {
            name: column.itemsize * (column.shape[1] if column.ndim > 1 else 1)
            for name, column in self.columns.items()
        }

    @classmethod
    def of(
        cls, table: FeatureTable, vocabulary: Vocabulary, is_trained
    ) -> "EncodedFeatures":
        """Encodes a table whose ids are all known.

        Args:
            table: `FeatureTable`.
            vocabulary: `Vocabulary` of the ids.
            is_trained: bool `(num_rows,)`. Rows that are in the train part:
                the encoders are fitted on these alone.
        """
        rows = vocabulary.rows(table.ids)
        schema = FeatureSchema.fit(table, is_trained[rows])
        encoded = schema.encode(table.columns)
        by_row = {}
        for name, column in encoded.items():
            shape = (vocabulary.num_rows, *column.shape[1:])
            by_row[name] = np.zeros(shape, column.dtype)
            by_row[name][rows] = column
        is_known = np.zeros(vocabulary.num_rows, bool)
        is_known[rows] = True
        return cls(schema, by_row, is_known)

    def __str__(self) -> str:
        return ", ".join(
            f"{name} ({one})" for name, one in self.schema.encoders.items()
        )
