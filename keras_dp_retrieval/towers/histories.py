"""Histories: the interaction history of every user, saved as weights."""

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.padding import (
    PADDING,
    next_power_of_two,
    pad_indices,
)
from keras_dp_retrieval.towers.history_lists import HistoryLists


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class Histories(keras.layers.Layer):
    """Looks up the interaction histories of users, oldest item first.

    The histories are stored as one flat array of candidate rows and the offset
    of each user in it, so memory depends on the number of interactions, not on
    the longest history.

    Args:
        num_users: int. Rows of the user table.
        num_interactions: int. Interactions of all users together.
        max_length: int. Histories are truncated to this many of the latest
            items when they are looked up.

    Example:

    ```python
    histories = kdr.Histories.from_interactions(data.seen, max_length=100)
    histories(np.array([1, 2]))  # (2, length), padded with -1
    ```
    """

    def __init__(self, num_users, num_interactions, max_length, **kwargs):
        super().__init__(**kwargs)
        self.num_users = _checks.table_size("num_users", num_users)
        self.num_interactions = _checks.non_negative_int(
            "num_interactions", num_interactions
        )
        # Offsets go up to the length of the array, which is one longer.
        _checks.table_size("num_interactions", self.num_interactions + 1)
        self.max_length = _checks.positive_int("max_length", max_length)
        self._damage = ""
        self.starts = self._add_integers("starts", self.num_users + 1)
        # One more than needed: lookups in an empty array fail.
        self.candidate_rows = self._add_integers(
            "candidate_rows", self.num_interactions + 1
        )
        # The original rows, while others replace them.
        self._original: np.ndarray | None = None
        self.built = True

    def _add_integers(self, name, length):
        return self.add_weight(
            shape=(length,),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            name=name,
        )

    @classmethod
    def from_interactions(cls, interactions, *, max_length=None, **kwargs):
        """Creates the layer from `Interactions`, such as `data.seen`."""
        longest = max(int(np.diff(interactions.indptr).max(initial=0)), 1)
        histories = cls(
            len(interactions.indptr) - 1,
            len(interactions.candidate_rows),
            min(max_length or longest, longest),
            **kwargs,
        )
        histories.assign(interactions)
        return histories

    def assign(self, interactions) -> None:
        """Takes the interactions, of which there may be less than fit."""
        rows = np.zeros(self.num_interactions + 1, "int32")
        rows[: len(interactions.candidate_rows)] = interactions.candidate_rows
        self.starts.assign(interactions.indptr.astype("int32"))
        self.candidate_rows.assign(rows)

    def check_rows(self, num_candidates) -> None:
        """Raises a ValueError if rows are outside a table of this size."""
        rows = ops.convert_to_numpy(self.candidate_rows)
        if rows.min() < 0 or rows.max() >= num_candidates:
            raise ValueError(
                "Histories must hold candidate rows from 0 to "
                f"{num_candidates - 1} (`num_candidates` - 1). Received: "
                f"{rows.min()} to {rows.max()}. Make them from the data that "
                "the model is made for."
            )

    def load_own_variables(self, store):
        """As in `keras.layers.Layer`; raises if the offsets are wrong."""
        if self._damage:  # Keras tries again with another, empty store.
            raise ValueError(self._damage)
        super().load_own_variables(store)
        starts = ops.convert_to_numpy(self.starts)
        rises = starts[0] == 0 and (np.diff(starts) >= 0).all()
        if not rises or starts[-1] > self.num_interactions:
            self._damage = (
                "The saved histories are damaged: the offsets of users must "
                f"increase from 0 to {self.num_interactions}. Received: "
                f"{starts[:5].tolist()}, ..., {starts[-1]}."
            )
            raise ValueError(self._damage)

    def call(self, user_rows, lengths=None, max_length=None):
        """Returns int32 `(batch, max_length)`, oldest first, padded with -1.

        Args:
            user_rows: int `(batch,)`.
            lengths: Optional int `(batch,)`. Looks up a prefix of this length
                of each history: the history at an earlier time.
            max_length: Optional int. Truncates to this many of the latest
                items; by default, and at most, `max_length` of the layer.
        """
        return self.unpadded(user_rows, lengths, max_length).padded()

    def unpadded(self, user_rows, lengths=None, max_length=None):
        """Returns the same as `HistoryLists`, which take `batch` integers.

        Args:
            user_rows, lengths, max_length: As in a call of the layer.
        """
        max_length = min(max_length or self.max_length, self.max_length)
        start = ops.take(self.starts, user_rows)
        end = ops.take(self.starts, user_rows + 1)
        if lengths is not None:
            end = ops.minimum(end, start + lengths)
        start = ops.maximum(start, end - max_length)
        return HistoryLists(
            rows=ops.convert_to_tensor(self.candidate_rows),
            begin=start,
            sizes=end - start,
            columns=ops.arange(max_length, dtype="int32"),
        )

    def lists(self, user_rows, lengths=None):
        """Returns whole histories in the form that `_jax.membership` takes.

        Args:
            user_rows: int `(batch,)`.
            lengths: Optional int `(batch,)`, as in a call of the layer.

        Returns:
            `membership.Lists`, or None where the backend is not JAX.
        """
        if keras.backend.backend() != "jax":
            return None
        from keras_dp_retrieval._jax import membership

        def rows(tensor):
            return ops.cast(tensor, "int32")

        return membership.Lists(
            starts=ops.convert_to_tensor(self.starts),
            rows=ops.convert_to_tensor(self.candidate_rows),
            numbers=rows(user_rows),
            lengths=None if lengths is None else rows(lengths),
        )

    def replace_rows(self, candidate_rows) -> None:
        """Replaces the candidate rows until `restore_rows` is called.

        The original rows are what is saved in the meantime.

        Args:
            candidate_rows: int `(num_interactions,)`.
        """
        if self._original is None:
            # A copy: the next step donates the device's buffer.
            self._original = np.array(ops.convert_to_numpy(self.candidate_rows))
        self.candidate_rows.assign(np.append(candidate_rows, 0).astype("int32"))

    def restore_rows(self) -> None:
        """Restores the original candidate rows, if they were replaced."""
        if self._original is not None:
            self.candidate_rows.assign(self._original)
            self._original = None

    def save_own_variables(self, store):
        if self._original is None:
            super().save_own_variables(store)
        else:  # Named by the order in which they were created.
            store["0"] = self.starts
            store["1"] = self._original

    def lengths(self, user_rows) -> np.ndarray:
        """Returns how long whole histories are, int32 `(batch,)`."""
        starts, user_rows = _view(self.starts), np.asarray(user_rows)
        return starts[user_rows + 1] - starts[user_rows]

    def padded(self, user_rows) -> np.ndarray:
        """Returns whole histories, int32 `(batch, longest)`, padded with -1.

        `longest` is rounded up to a power of two, so that few shapes occur.
        """
        starts, rows = _view(self.starts), _view(self.candidate_rows)
        first, last = starts[user_rows], starts[np.asarray(user_rows) + 1]
        longest = int((last - first).max(initial=0))
        indices, mask = pad_indices(last - first, next_power_of_two(longest))
        return np.where(mask, rows[first[:, None] + indices], PADDING)

    def get_config(self):
        return {
            **super().get_config(),
            "num_users": self.num_users,
            "num_interactions": self.num_interactions,
            "max_length": self.max_length,
        }


def _view(variable) -> np.ndarray:
    """The values of a variable, on CPUs without a copy.

    `ops.convert_to_numpy` copies, which would take most of the time of a
    recommendation for one user.
    """
    if keras.backend.backend() == "torch":
        return ops.convert_to_numpy(variable)
    return np.asarray(variable.value)
