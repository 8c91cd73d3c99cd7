"""IdHistoryTower: a user id and the items of the history."""

import keras
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval.towers.base import HistoryTower
from keras_dp_retrieval.towers.history_lists import HistoryLists
from keras_dp_retrieval.towers.history_sums import (
    look_up_and_sum,
    pool,
    pool_in_pieces,
    way_to_sum,
)


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class IdHistoryTower(HistoryTower):
    """Sums a user embedding and the embeddings of the history's items.

        user = id_vector + sum of the history's item vectors / sqrt(length)

    The order of the items does not matter. Their table is not shared with the
    candidate tower. For users who are not in the table the vector is that of
    the history alone, so the tower also serves users who were not in training.

    Memory: histories may be of any length. Their vectors are summed a piece
    at a time where they would take more than 4 MB side by side, and no
    history is then padded to the longest: beside its result, `batch x dim x
    4` bytes, that takes some megabytes, in training as well the gradient of
    the table, `num_candidates x dim x 4` bytes. The time follows the lengths
    of the batch's histories together. Where there are few candidates for the
    longest history, it is a product with counts, `batch x num_candidates x
    4` bytes, up to half a gigabyte. (Backends other than JAX do so outside of
    training only.) A step that updates single rows, and not the whole table,
    does so while `batch x longest` is less than a fourth of its rows:
    `max_length` keeps it there.

    Args:
        num_users: int. Rows of the user table.
        num_candidates: int. Rows of the candidate table.
        embedding_dimension: int. Length of the vectors, `dim`.
        stddev: float. Standard deviation of the normal distribution that
            initializes both tables.
        **kwargs: Arguments of `HistoryTower`, such as `item_dropout`.

    Example:

    ```python
    model = kdr.TwoTowerRetrieval.for_dataset(
        data,
        64,
        user_tower=kdr.IdHistoryTower(data.num_users, data.num_candidates, 64),
    )
    ```
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
        self.ids = self._table(self.num_users, "user_ids", self.stddev)
        self.items = self._table(
            self.num_candidates, "history_items", self.stddev
        )
        self.built = True

    def call(self, inputs, training=False):
        """Returns user vectors, float32 `(batch, dim)`.

        Args:
            inputs: `(user_rows, histories)`, as in `HistoryTower`; the
                histories may also be `HistoryLists`.
            training: bool. Whether dropout is applied.
        """
        user_rows, histories = inputs
        total, number = self._sums(histories, training)
        pooled = total * ops.rsqrt(ops.maximum(number, 1.0))
        known = ops.cast(user_rows > 0, "float32")[:, None]
        vectors = self.ids(user_rows) * known + pooled
        return self._drop_coordinates(vectors, training)

    @property
    def takes_lists(self):
        # A `call` of a subclass reads padded histories.
        return type(self).call is IdHistoryTower.call

    def _sums(self, histories, training):
        """The sum of each history, `(batch, dim)`, and of what: `(batch, 1)`.

        The model gives lists where it stores the histories, so that they are
        padded only where that takes little room.
        """
        lists = histories
        if not isinstance(histories, HistoryLists):
            if not isinstance(ops.shape(histories)[0], int):
                # A program for batches of any size, and for other runtimes,
                # which know the plainest way alone.
                kept = self._kept(histories, training)
                number = ops.sum(kept, axis=1, keepdims=True)
                return look_up_and_sum(self.items, histories, kept), number
            lists = HistoryLists.of_padded(histories)
        way = way_to_sum(
            self.items, ops.shape(lists.sizes)[0], lists.columns.shape[0]
        )
        drops = training and self.item_dropout > 0
        if way != "pieces" or (drops and keras.backend.backend() != "jax"):
            padded = lists.padded()
            kept = self._kept(padded, training)
            number = ops.sum(kept, axis=1, keepdims=True)
            return pool(self.items, padded, kept), number
        seed = self.seed_generator.next() if drops else None
        sums, numbers = pool_in_pieces(
            self.items, lists, seed, self.item_dropout
        )
        return sums, numbers[:, None]

    def get_config(self):
        return {
            **super().get_config(),
            "num_users": self.num_users,
            "stddev": self.stddev,
        }
