"""Ready-made user towers that know what a user has had.

A history tower is called with `(user_rows, histories)`: int `(batch,)`, with 0
for users who are not in the table, and int `(batch, length)`, candidate rows
oldest first, filled up at the end with -1. It is the model that looks the
histories up; `max_length` says how many of the latest the tower wants.
"""

import keras
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval.towers.embedding import RowEmbedding


class HistoryTower(keras.layers.Layer):
    """What all history towers have in common.

    Args:
        num_candidates: int. Rows of the candidate table.
        embedding_dimension: int. Length of the vectors.
        max_length: Optional int. How many of a user's latest candidates the
            tower sees; all by default.
        item_dropout: float. In training, leaves out each item of a history
            with this probability.
        query_dropout: float. In training, drops coordinates of the vectors.
        seed: Optional int. Of the dropouts.
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
        """1.0 where an item is there and not dropped, `(batch, length)`."""
        # Row 0 stands for candidates that nobody knows.
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
