"""The base class of user towers that read interaction histories."""

import keras
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval.towers.embedding import RowEmbedding


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class HistoryTower(keras.layers.Layer):
    """Base class of user towers that read interaction histories.

    To implement your own tower, subclass it and override `call`, which is
    given a tuple of two int32 tensors and returns vectors `(batch, dim)`:

    - `user_rows`, `(batch,)`, 0 for users who are not in the table;
    - `histories`, `(batch, length)`, candidate rows, oldest first, padded at
      the end with -1.

    The model looks up the histories of its users, if it stores them; with
    streamed data they come with the examples (`max_history`). Those of other
    users are given to `recommend`.

    Args:
        num_candidates: int. Rows of the candidate table.
        embedding_dimension: int. Length of the vectors, `dim`.
        max_length: Optional int. Truncates histories to this many of the
            latest items. By default they are not truncated; a `call` of your
            own is then given as many columns as the longest history of all
            users has, and its memory grows with them.
        item_dropout: float. In training, drops each item of a history with
            this probability.
        query_dropout: float. Dropout rate of the output vectors.
        seed: Optional int. Seeds the dropouts.

    Example:

    ```python
    @keras.saving.register_keras_serializable(package="my_project")
    class LatestItem(kdr.HistoryTower):
        def __init__(self, num_candidates, embedding_dimension, **kwargs):
            kwargs = {**kwargs, "max_length": 1}
            super().__init__(num_candidates, embedding_dimension, **kwargs)
            self.items = kdr.RowEmbedding(num_candidates, embedding_dimension)

        def call(self, inputs, training=False):
            _, histories = inputs
            return self.items(keras.ops.maximum(histories[:, 0], 0))
    ```
    """

    def __init__(
        self,
        num_candidates,
        embedding_dimension,
        *,
        max_length=None,
        item_dropout=0.2,
        query_dropout=0.3,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_candidates = _checks.table_size(
            "num_candidates", num_candidates
        )
        self.embedding_dimension = _checks.table_size(
            "embedding_dimension", embedding_dimension
        )
        if max_length is not None:
            max_length = _checks.positive_int("max_length", max_length)
        self.max_length = max_length
        self.item_dropout = _checks.number_between(
            "item_dropout", item_dropout, 0, 1, open_high=True
        )
        self.query_dropout = _checks.number_between(
            "query_dropout", query_dropout, 0, 1, open_high=True
        )
        self.seed = _checks.seed("seed", seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    @property
    def takes_lists(self) -> bool:
        """Whether `call` also takes histories as `HistoryLists`, not padded."""
        return False

    @property
    def takes_positions(self) -> bool:
        """Whether `call` takes `positions`, as that of `SequenceTower` does."""
        return False

    def get_config(self):
        return {
            **super().get_config(),
            "num_candidates": self.num_candidates,
            "embedding_dimension": self.embedding_dimension,
            "max_length": self.max_length,
            "item_dropout": self.item_dropout,
            "query_dropout": self.query_dropout,
            "seed": self.seed,
        }

    def _table(self, num_rows: int, name: str, stddev: float):
        table = RowEmbedding(
            num_rows,
            self.embedding_dimension,
            embeddings_initializer=keras.initializers.RandomNormal(
                stddev=stddev, seed=self.seed
            ),
            name=name,
        )
        table.build()
        return table

    def _kept(self, histories, training):
        """1.0 for items that are kept, 0.0 for padding, `(batch, length)`."""
        # Row 0 stands for unknown candidates.
        present = ops.cast(histories > 0, "float32")
        if not training or not self.item_dropout:
            return present
        drawn = keras.random.uniform(
            ops.shape(histories), seed=self.seed_generator
        )
        return present * ops.cast(drawn >= self.item_dropout, "float32")

    def _drop_coordinates(self, vectors, training):
        if not training or not self.query_dropout:
            return vectors
        return keras.random.dropout(
            vectors, self.query_dropout, seed=self.seed_generator
        )


def history_tower(tower) -> HistoryTower | None:
    """The tower of histories that a user tower is, or has as `history`."""
    if isinstance(tower, HistoryTower):
        return tower
    inner = getattr(tower, "history", None)
    return inner if isinstance(inner, HistoryTower) else None


def takes_lists(tower) -> bool:
    """Whether a user tower takes histories as `HistoryLists`, not padded."""
    return bool(getattr(tower, "takes_lists", False))


def latest(histories, max_length: int | None):
    """The latest items of histories, padded at the end with -1.

    Args:
        histories: int `(batch, length)`, oldest first, padded at the end with
            -1.
        max_length: Optional int. How many at most; None for all.
    """
    if max_length is None or histories.shape[1] <= max_length:
        return histories
    lengths = ops.sum(ops.cast(histories >= 0, "int32"), axis=1, keepdims=True)
    indices = ops.maximum(lengths - max_length, 0)
    indices = indices + ops.arange(max_length, dtype="int32")
    found = ops.take_along_axis(histories, indices, axis=1)
    return ops.where(indices < lengths, found, -1)
