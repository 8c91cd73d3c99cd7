"""RecencyTower: exponentially decayed means of the history."""

import math

import keras
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval.towers.base import HistoryTower

# Chosen on the validation items of MovieLens 100K; `benchmarks/` has the
# comparisons.
DECAYS = (0.0, 0.5, 0.8, 0.95, 0.99, 1.0)


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class RecencyTower(HistoryTower):
    """Sums exponentially decayed means of the history's item embeddings.

    For each decay `d`, it computes the mean of the item embeddings with the
    weights `d ** age`, where the latest item has the age 0. Decay 1 is the
    plain mean, decay 0 the latest item alone. Each mean is multiplied by its
    own `(dim, dim)` matrix, initialized to the identity. The output is their
    sum.

    It has no user embeddings, so it also serves users who were not in
    training, and takes new events into account without training.

    Memory: the embeddings of the latest items take `batch x max_length x dim x
    4` bytes, in training twice as much; without a `max_length`, the length of
    the longest history of all users stands for it.

    Args:
        num_candidates: int. Rows of the candidate table.
        embedding_dimension: int. Length of the vectors, `dim`.
        decays: Floats from 0 to 1, one for each mean.
        max_length: Optional int. Truncates histories to this many of the
            latest items.
        stddev: float. Standard deviation of the normal distribution that
            initializes the item table.
        **kwargs: Arguments of `HistoryTower`, such as `item_dropout`.

    Example:

    ```python
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, 64, user_tower=kdr.RecencyTower(data.num_candidates, 64)
    )
    ```
    """

    def __init__(
        self,
        num_candidates,
        embedding_dimension,
        *,
        decays=DECAYS,
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
        self.items = self._table(
            self.num_candidates, "history_items", self.stddev
        )
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
        """Returns user vectors, float32 `(batch, dim)`.

        Args:
            inputs: `(user_rows, histories)`, as in `HistoryTower`. The rows are
                not used.
            training: bool. Whether dropout is applied.
        """
        _, histories = inputs
        present = ops.cast(histories > 0, "float32")
        kept = self._kept(histories, training)
        # Weights are normalized over all items, and scaled as in dropout.
        scale = 1 / (1 - self.item_dropout) if training else 1.0
        items = self.items(ops.maximum(histories, 0))
        vectors = 0.0
        for decay, projection in zip(
            self.decays, self.projections, strict=True
        ):
            weights = present * _decay_weights(decay, present)
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


def _decay_weights(decay: float, present):
    """`decay ** age`, `(batch, length)`; 0 ** 0 is 1."""
    # The number of later items, padding not counted.
    age = ops.sum(present, axis=1, keepdims=True) - ops.cumsum(present, axis=1)
    if decay == 0:
        return ops.cast(age == 0, "float32")
    # As `decay ** age`, which jax2onnx cannot export for batches of any size.
    return ops.exp(age * math.log(decay))
