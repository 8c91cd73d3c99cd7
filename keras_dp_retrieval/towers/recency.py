"""RecencyTower: the latest items count most."""

import keras
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval.towers.base import HistoryTower


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
