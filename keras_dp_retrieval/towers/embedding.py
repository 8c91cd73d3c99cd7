"""RowEmbedding: an embedding table that can be trained row by row."""

import keras
from keras import ops

from keras_dp_retrieval import _checks, _lookups
from keras_dp_retrieval._keras.layers import embedding_table


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class RowEmbedding(keras.layers.Embedding):
    """An `Embedding` layer that supports row-sparse updates.

    It has the arguments, weights and outputs of `keras.layers.Embedding`. In a
    row-sparse training step (`TwoTowerRetrieval(embedding_updates=...)`) only
    the rows that were looked up are differentiated and updated, so that the
    cost of a step depends on the batch, not on the table. In other models it
    trains like `keras.layers.Embedding`.

    Ids must be in `[0, input_dim)`. There is no check: on JAX a larger id gives
    NaN, and a negative one counts from the end.

    Args:
        input_dim: int. Rows of the table.
        output_dim: int. Length of the vectors.
        *args, **kwargs: As in `keras.layers.Embedding`.

    Example:

    ```python
    table = kdr.RowEmbedding(1_000_000, 64)
    vectors = table(np.array([3, 1, 3]))  # (3, 64)
    ```
    """

    def __init__(self, input_dim, output_dim, *args, **kwargs):
        super().__init__(
            _checks.table_size("input_dim", input_dim),
            _checks.table_size("output_dim", output_dim),
            *args,
            **kwargs,
        )

    def call(self, inputs):
        if inputs.dtype not in ("int32", "int64"):
            inputs = ops.cast(inputs, "int32")
        rows = _lookups.lookup(embedding_table(self), inputs)
        if rows is None:
            return super().call(inputs)
        return ops.cast(rows, dtype=self.compute_dtype)
