"""FeatureLookup: the encoded features of all users or candidates."""

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.features import EncodedFeatures, FeatureSchema


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class FeatureLookup(keras.layers.Layer):
    """Looks up the encoded features of table rows.

    The features of all rows are weights, which are not trained: they are saved
    with a model, and every device has them. A column takes 4 bytes a row, one
    of several labels or words 4 bytes for each of the most that a row has.

    Args:
        schema: `FeatureSchema`: the columns, and how they are encoded.
        num_rows: int. Rows of the table.
        widths: dict from the columns with several indices a row to the most.

    Example:

    ```python
    lookup = kdr.FeatureLookup.from_features(data.candidate_features)
    lookup(np.array([1, 2]))  # {"price": (2,), "genres": (2, 6)}
    ```
    """

    def __init__(self, schema, num_rows, widths, **kwargs):
        super().__init__(**kwargs)
        self.schema = _checks.instance("schema", schema, FeatureSchema)
        self.num_rows = _checks.table_size("num_rows", num_rows)
        self.widths = {
            name: _checks.positive_int("widths", width)
            for name, width in widths.items()
        }
        self.columns = {
            name: self.add_weight(
                shape=self._shape_of(name),
                dtype="float32" if encoder.is_number else "int32",
                initializer="zeros",
                trainable=False,
                autocast=False,
                name=f"feature_{number}",
            )
            for number, (name, encoder) in enumerate(schema.encoders.items())
        }
        self.is_known = self.add_weight(
            shape=(self.num_rows,),
            dtype="int8",
            initializer="zeros",
            trainable=False,
            name="is_known",
        )
        self.built = True

    def _shape_of(self, name: str) -> tuple:
        if name in self.widths:
            return (self.num_rows, self.widths[name])
        return (self.num_rows,)

    @classmethod
    def from_features(cls, features: EncodedFeatures, **kwargs):
        """Creates the layer from features such as `data.user_features`."""
        widths = {
            name: column.shape[1]
            for name, column in features.columns.items()
            if column.ndim > 1
        }
        lookup = cls(features.schema, features.num_rows, widths, **kwargs)
        for name, variable in lookup.columns.items():
            variable.assign(features.columns[name])
        lookup.is_known.assign(features.is_known.astype("int8"))
        return lookup

    def call(self, rows):
        """Returns the columns of these rows, a dict by name.

        Args:
            rows: int, of any shape.

        Returns:
            dict to int32 or float32 of the shape of `rows`, with one more axis
            where a row has several indices, padded with 0.
        """
        return {
            name: ops.take(column, rows, axis=0)
            for name, column in self.columns.items()
        }

    def encode(self, columns) -> dict[str, np.ndarray]:
        """Encodes raw columns of features, as `FeatureSchema.encode` does."""
        return self.schema.encode(columns)

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "schema": serialize(self.schema),
            "num_rows": self.num_rows,
            "widths": self.widths,
        }

    @classmethod
    def from_config(cls, config):
        schema = keras.saving.deserialize_keras_object(config["schema"])
        return cls(**{**config, "schema": schema})
