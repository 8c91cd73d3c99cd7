"""Ready-made user towers that know what a user has had.

A history tower is called with `(user_rows, histories)`: int `(batch,)`, with 0
for users who are not in the table, and int `(batch, length)`, candidate rows
oldest first, filled up at the end with -1. It is the model that looks the
histories up; `max_length` says how many of the latest the tower wants.
"""

import keras
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval.embedding import RowEmbedding


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
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

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


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class IdHistoryTower(HistoryTower):
    """Who a user is, plus what the user has had, in no order.

        user = id_vector + sum of the history's item vectors / sqrt(length)

    The items have a table of their own, apart from the candidate tower's.
    A user who is not in the table is the history alone, so the tower serves
    users whom nobody has seen in training.

    Args:
        num_users: int. Rows of the user table.
        num_candidates: int. Likewise, and the others, as in `HistoryTower`.
        stddev: float. Of the normal distribution both tables start from.
    """

    def __init__(
        self,
        num_users,
        num_candidates,
        embedding_dimension,
        *,
        stddev=0.05,
        **kwargs,
    ):
        super().__init__(num_candidates, embedding_dimension, **kwargs)
        self.num_users = _checks.table_size("num_users", num_users)
        self.stddev = _checks.number_between("stddev", stddev, 0, open_low=True)
        self.ids = self._table(self.num_users, "user_ids", stddev)
        self.items = self._table(self.num_candidates, "history_items", stddev)
        self.built = True

    def call(self, inputs, training=False):
        """Returns `(batch, dim)` for `(user_rows, histories)`."""
        user_rows, histories = inputs
        kept = self._kept(histories, training)
        length = ops.maximum(ops.sum(kept, axis=1, keepdims=True), 1.0)
        pooled = pool(self.items, histories, kept) * ops.rsqrt(length)
        known = ops.cast(user_rows > 0, "float32")[:, None]
        vectors = self.ids(user_rows) * known + pooled
        return self._drop_coordinates(vectors, training)

    def get_config(self):
        return {
            **super().get_config(),
            "num_users": self.num_users,
            "stddev": self.stddev,
        }


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class RecencyTower(HistoryTower):
    """What a user has had, the latest first: several fading memories.

    For each decay `d`, the mean of the history's item vectors with the weight
    `d ** age`, the latest item having the age 0 (and `0 ** 0 = 1`: with decay
    0 it is the latest item alone). Each mean goes through a matrix of its
    own, which starts as the identity; the user is their sum.

    It knows no user ids, so it serves users whom nobody has seen in training,
    and answers a new event without training.

    Args:
        num_candidates: int. Likewise the others, as in `HistoryTower`.
        decays: floats from 0 to 1.
        stddev: float. Of the normal distribution the item table starts from.
    """

    def __init__(
        self,
        num_candidates,
        embedding_dimension,
        *,
        # Chosen on the validation items of MovieLens 100K; `benchmarks/`
        # has the comparisons.
        decays=(0.0, 0.5, 0.8, 0.95, 0.99, 1.0),
        max_length=100,
        stddev=0.1,
        **kwargs,
    ):
        super().__init__(
            num_candidates,
            embedding_dimension,
            max_length=max_length,
            **kwargs,
        )
        self.decays = _checks.numbers_between("decays", decays, 0, 1)
        self.stddev = _checks.number_between("stddev", stddev, 0, open_low=True)
        self.items = self._table(self.num_candidates, "history_items", stddev)
        self.projections = [
            self.add_weight(
                shape=(self.embedding_dimension,) * 2,
                initializer="identity",
                name=f"projection_{number}",
            )
            for number in range(len(self.decays))
        ]
        self.built = True

    def call(self, inputs, training=False):
        """Returns `(batch, dim)` for `(user_rows, histories)`."""
        _, histories = inputs
        present = ops.cast(histories > 0, "float32")
        kept = self._kept(histories, training)
        # The mean over what is there; what is dropped is made up for in the
        # mean over many draws.
        scale = 1 / (1 - self.item_dropout) if training else 1.0
        items = self.items(ops.maximum(histories, 0))
        vectors = 0.0
        for decay, projection in zip(
            self.decays, self.projections, strict=True
        ):
            weights = present * _fade(decay, present)
            total = ops.sum(weights, axis=1, keepdims=True)
            weights = weights * kept * scale / ops.maximum(total, 1e-9)
            mean = ops.einsum("bl,bld->bd", weights, items)
            vectors = vectors + ops.matmul(mean, projection)
        return self._drop_coordinates(vectors, training)

    def get_config(self):
        return {
            **super().get_config(),
            "decays": self.decays,
            "stddev": self.stddev,
        }


def _fade(decay: float, present):
    """`decay ** age`, `(batch, length)`; 0 ** 0 is 1."""
    # The number of items that come later, absent ones not counted.
    age = ops.sum(present, axis=1, keepdims=True) - ops.cumsum(present, axis=1)
    if decay == 0:
        return ops.cast(age == 0, "float32")
    return ops.power(decay, age)


def pool(table, histories, weights):
    """The weighted sum of each history's rows, `(batch, dim)`.

    Args:
        table: `RowEmbedding`.
        histories: int `(batch, length)`; rows below 0 must have weight 0.
        weights: float `(batch, length)`.
    """
    rows = ops.maximum(histories, 0)
    num_rows, length = table.input_dim, histories.shape[1]
    # Long histories fill a good part of a small catalogue: then one matrix
    # product is many times quicker than to gather and scatter padded lists
    # (943 users of up to 737 of 1,682 movies: 4 against 60 ms a step).
    if num_rows > 16 * length:
        return ops.einsum("bl,bld->bd", weights, table(rows))
    batch = ops.shape(rows)[0]
    places = rows + num_rows * ops.arange(batch, dtype="int32")[:, None]
    counts = ops.segment_sum(
        ops.reshape(weights, (-1,)),
        ops.reshape(places, (-1,)),
        num_segments=batch * num_rows,
    )
    counts = ops.reshape(counts, (-1, num_rows))
    return ops.matmul(counts, table.embeddings)
