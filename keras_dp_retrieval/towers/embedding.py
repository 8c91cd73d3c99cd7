"""The embedding tables of the towers."""

import keras
from keras import ops

from keras_dp_retrieval import _checks, _lookups
from keras_dp_retrieval._keras.layers import embedding_table


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class RowEmbedding(keras.layers.Embedding):
    """An `Embedding` whose table can be trained row by row.

    The layer computes what `keras.layers.Embedding` computes, takes the same
    arguments and saves the same weights. Inside a row-sparse training step it
    also tells the step which rows it looked up, so that the step
    differentiates and updates those rows alone and its cost follows the batch,
    not the table. Everywhere else, in other models' `fit` too, it trains like
    its parent.

    Ids must lie in `[0, input_dim)`: JAX answers a larger one with NaN and
    lets a negative one wrap, without an error.

    Example:

    ```python
    table = RowEmbedding(1_000_000, 64)
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
