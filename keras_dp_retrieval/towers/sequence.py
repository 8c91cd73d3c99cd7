"""SequenceTower: a causal transformer over the history."""

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval.towers.base import HistoryTower, latest
from keras_dp_retrieval.towers.transformer_block import TransformerBlock

# Up to this distance, positions have a bias each; beyond, four share a
# doubling of it, as what happened 60 or 70 items ago is alike.
EXACT_DISTANCES = 16
BUCKETS_A_DOUBLING = 4


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class SequenceTower(HistoryTower):
    """Predicts what comes next by a causal transformer over the history.

        x_0 = item vectors of the history, `(batch, length, dim)`
        x_n = block(x_{n-1})
        user = norm(x_num_blocks) at the latest item

    In a block, an item attends to itself and to earlier ones, with a learned
    bias for the distance between them (T5: Raffel et al. 2020), so that it
    does not matter how long the history is; then comes a SwiGLU network. Both
    have normalization in front and gates on what they add (LiGR: Borisyuk et
    al. 2025, eSASRec: Tikhonovich et al. 2025). The user is one vector, so
    the model is served like any other.

    As in SASRec (Kang and McAuley 2018), one pass has a vector for each
    position of a history, and learns from all of them: train on
    `data.by_sequence()`. On `data.next_items()`, one example at a time, it
    learns the same at `max_length` times the cost.

    It has no user embeddings, so it also serves users who were not in
    training, and takes new events into account without training. Without any
    known item the vector is 0. Time stamps are not used beyond the order; it
    has an item table of its own, not shared with the candidate tower.

    Memory: in training about `num_blocks x batch x max_length x (30 dim + 4
    num_heads x max_length) x 4` bytes, otherwise, whatever the number of
    blocks, `batch x max_length x (6 dim + num_heads x max_length) x 4` (two
    blocks of two heads, 64 dimensions, 100 items: 144 MB for a batch of 64,
    and 246 MB to encode 1,024 users).

    Args:
        num_candidates: int. Rows of the candidate table.
        embedding_dimension: int. Length of the vectors, `dim`; a multiple of
            `num_heads`.
        num_blocks: int.
        num_heads: int. Attention heads of a block.
        max_length: int. Truncates histories to this many of the latest items.
        hidden_dimension: Optional int. Width of the hidden layer of a block's
            network; twice `embedding_dimension` by default.
        dropout: float. Dropout rate of the item vectors, and of what the parts
            of a block add.
        stddev: float. Standard deviation of the normal distribution that
            initializes the item table.
        **kwargs: Arguments of `HistoryTower`: `item_dropout`, here 0 by
            default, `query_dropout`, `seed`.

    Example:

    ```python
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, 64, user_tower=kdr.SequenceTower(data.num_candidates, 64)
    )
    model.compile(keras.optimizers.Adam(3e-3))
    model.fit(data.by_sequence(batch_size=32, max_length=100), epochs=20)
    ```
    """

    def __init__(
        self,
        num_candidates,
        embedding_dimension,
        *,
        num_blocks=2,
        num_heads=2,
        max_length=100,
        hidden_dimension=None,
        dropout=0.2,
        stddev=0.1,
        item_dropout=0.0,
        **kwargs,
    ):
        super().__init__(
            num_candidates,
            embedding_dimension,
            max_length=_checks.positive_int("max_length", max_length),
            item_dropout=item_dropout,
            **kwargs,
        )
        self.num_blocks = _checks.positive_int("num_blocks", num_blocks)
        self.num_heads = _checks.positive_int("num_heads", num_heads)
        if self.embedding_dimension % self.num_heads:
            raise ValueError(
                "`embedding_dimension` must be a multiple of `num_heads`. "
                f"Received: embedding_dimension={embedding_dimension} and "
                f"num_heads={num_heads}. With 1 head any dimension will do."
            )
        if hidden_dimension is not None:
            hidden_dimension = _checks.positive_int(
                "hidden_dimension", hidden_dimension
            )
        self.hidden_dimension = hidden_dimension
        self.dropout = _checks.number_between(
            "dropout", dropout, 0, 1, open_high=True
        )
        self.stddev = _checks.number_between("stddev", stddev, 0, open_low=True)
        self.items = self._table(
            self.num_candidates, "history_items", self.stddev
        )
        self._buckets = distance_buckets(self.max_length)
        self.blocks, self.distance_biases = [], []
        for number in range(self.num_blocks):
            self.blocks.append(self._block(number))
            # Here and not in the block: `add_candidates` knows that this
            # layer's own weights have no row for each candidate.
            self.distance_biases.append(
                self.add_weight(
                    shape=(int(self._buckets[-1]) + 1, self.num_heads),
                    initializer="zeros",
                    name=f"distance_bias_{number}",
                )
            )
        self.norm = keras.layers.LayerNormalization(name="norm")
        self.norm.build((None, self.embedding_dimension))
        self.built = True

    def _block(self, number):
        # Far apart, so that no two layers of a tower begin with one seed.
        seed = self.seed
        if seed is not None:
            seed = (seed + 1000 * (number + 1)) % 2**32
        return TransformerBlock(
            self.embedding_dimension,
            self.num_heads,
            self.hidden_dimension or 2 * self.embedding_dimension,
            dropout=self.dropout,
            seed=seed,
            seed_generator=self.seed_generator,
            name=f"block_{number}",
        )

    @property
    def takes_positions(self):
        # A `call` of a subclass may not.
        return type(self).call is SequenceTower.call

    def call(self, inputs, training=False, positions=None):
        """Returns user vectors, `(batch, dim)`.

        Args:
            inputs: `(user_rows, histories)`, as in `HistoryTower`. The rows are
                not used.
            training: bool. Whether dropout is applied.
            positions: Optional int `(batch, positions)`, columns of the
                histories. Then returns the vectors `(batch, positions, dim)`
                of users whose histories end there.
        """
        _, histories = inputs
        if positions is None:
            histories = latest(histories, self.max_length)
        present = histories > 0  # Row 0 stands for unknown candidates.
        x = self._item_vectors(histories, training)
        length = histories.shape[1]
        columns = np.arange(length)
        distances = columns[:, None] - columns
        allowed = ops.logical_and(
            ops.convert_to_tensor(distances >= 0), present[:, None, :]
        )
        buckets = self._buckets[np.clip(distances, 0, self.max_length - 1)]
        for block, biases in zip(
            self.blocks, self.distance_biases, strict=True
        ):
            bias = ops.take(ops.cast(biases, "float32"), buckets, axis=0)
            bias = ops.transpose(bias, (2, 0, 1))
            x = block(x, bias, allowed, training=training)
        # How many items are known up to here.
        known = ops.cumsum(ops.cast(present, "int32"), axis=1)
        vectors = self.norm(x) * ops.cast(known > 0, x.dtype)[..., None]
        at = positions
        if positions is None:
            number = ops.sum(ops.cast(histories >= 0, "int32"), axis=1)
            at = number[:, None] - 1
        at = ops.maximum(at, 0)[..., None]
        vectors = ops.take_along_axis(vectors, at, axis=1)
        if positions is None:
            vectors = vectors[:, 0]
        return self._drop_coordinates(vectors, training)

    def _item_vectors(self, histories, training):
        vectors = self.items(ops.maximum(histories, 0))
        kept = ops.cast(self._kept(histories, training), vectors.dtype)
        vectors = vectors * kept[..., None]
        if not training or not self.dropout:
            return vectors
        return keras.random.dropout(
            vectors, self.dropout, seed=self.seed_generator
        )

    def get_config(self):
        return {
            **super().get_config(),
            "num_blocks": self.num_blocks,
            "num_heads": self.num_heads,
            "hidden_dimension": self.hidden_dimension,
            "dropout": self.dropout,
            "stddev": self.stddev,
        }


def distance_buckets(max_length: int) -> np.ndarray:
    """The number of the bias of each distance, int `(max_length,)`.

    Distance 0 is an item itself.
    """
    distances = np.arange(max_length)
    far = np.log2(np.maximum(distances, 1) / EXACT_DISTANCES)
    far = EXACT_DISTANCES + np.floor(far * BUCKETS_A_DOUBLING).astype(int)
    return np.where(distances < EXACT_DISTANCES, distances, far)
