"""What every user has had, as weights: it is saved with the model."""

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.padding import (
    PADDING,
    next_power_of_two,
    pad_indices,
)


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class Histories(keras.layers.Layer):
    """Looks up the candidates that users had, in the order they had them.

    One flat list of candidate rows and where each user's part of it begins:
    memory follows the number of interactions, not users times the longest.

    Args:
        num_users: int. Rows of the user table.
        num_interactions: int. Interactions of all users together.
        max_length: int. The latest so many of a user are looked up.
    """

    def __init__(self, num_users, num_interactions, max_length, **kwargs):
        super().__init__(**kwargs)
        self.num_users = _checks.table_size("num_users", num_users)
        self.num_interactions = _checks.non_negative_int(
            "num_interactions", num_interactions
        )
        # Where a history begins is a row of the list, and it is one longer.
        _checks.table_size("num_interactions", self.num_interactions + 1)
        self.max_length = _checks.positive_int("max_length", max_length)
        self._damage = ""
        self.starts = self._add_integers("starts", self.num_users + 1)
        # One more than needed, so that there is something to look up in a
        # history without interactions.
        self.candidate_rows = self._add_integers(
            "candidate_rows", self.num_interactions + 1
        )
        # The rows as they came in, while others take their place.
        self._given: np.ndarray | None = None
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
        """Holds a copy of a data set's `Interactions`."""
        longest = max(int(np.diff(interactions.indptr).max(initial=0)), 1)
        histories = cls(
            len(interactions.indptr) - 1,
            len(interactions.candidate_rows),
            min(max_length or longest, longest),
            **kwargs,
        )
        histories.starts.assign(interactions.indptr.astype("int32"))
        histories.candidate_rows.assign(
            np.append(interactions.candidate_rows, 0).astype("int32")
        )
        return histories

    def check_rows(self, num_candidates) -> None:
        """Raises a ValueError unless all histories are of such candidates."""
        rows = ops.convert_to_numpy(self.candidate_rows)
        if rows.min() < 0 or rows.max() >= num_candidates:
            raise ValueError(
                "Histories must hold candidate rows from 0 to "
                f"{num_candidates - 1} (`num_candidates` - 1). Received: "
                f"{rows.min()} to {rows.max()}. Make them from the data that "
                "the model is made for."
            )

    def load_own_variables(self, store):
        """As in `keras.layers.Layer`; raises if histories do not fit."""
        if self._damage:  # Keras tries elsewhere, where there is nothing.
            raise ValueError(self._damage)
        super().load_own_variables(store)
        starts = ops.convert_to_numpy(self.starts)
        rises = starts[0] == 0 and (np.diff(starts) >= 0).all()
        if not rises or starts[-1] > self.num_interactions:
            self._damage = (
                "The saved histories are damaged: where those of users begin "
                f"must rise from 0 to {self.num_interactions}. Received: "
                f"{starts[:5].tolist()}, ..., {starts[-1]}."
            )
            raise ValueError(self._damage)

    def call(self, user_rows, lengths=None, max_length=None):
        """Returns int32 `(batch, max_length)`, oldest first, padded with -1.

        Args:
            user_rows: int `(batch,)`.
            lengths: Optional int `(batch,)`. Looks at no more than the first
                so many of a user: what the user had had by then.
            max_length: Optional int. The latest so many; by default that of
                the layer.
        """
        max_length = min(max_length or self.max_length, self.max_length)
        start = ops.take(self.starts, user_rows)
        end = ops.take(self.starts, user_rows + 1)
        if lengths is not None:
            end = ops.minimum(end, start + lengths)
        start = ops.maximum(start, end - max_length)
        places = start[:, None] + ops.arange(max_length, dtype="int32")
        rows = ops.take(
            self.candidate_rows, ops.minimum(places, self.num_interactions)
        )
        return ops.where(places < end[:, None], rows, -1)

    def lists(self, user_rows, lengths=None):
        """The whole histories, as `_jax.membership` looks candidates up.

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
        """Puts other candidate rows in the place of the given ones for a while.

        What is saved meanwhile is what was given. `restore_rows` ends it.

        Args:
            candidate_rows: int `(num_interactions,)`.
        """
        if self._given is None:
            # A copy: the device's array is given away at the next step.
            self._given = np.array(ops.convert_to_numpy(self.candidate_rows))
        self.candidate_rows.assign(np.append(candidate_rows, 0).astype("int32"))

    def restore_rows(self) -> None:
        """Puts the given candidate rows back, if others stand there."""
        if self._given is not None:
            self.candidate_rows.assign(self._given)
            self._given = None

    def save_own_variables(self, store):
        if self._given is None:
            super().save_own_variables(store)
        else:  # In the order in which the layer made them.
            store["0"] = self.starts
            store["1"] = self._given

    def padded(self, user_rows) -> np.ndarray:
        """All that the users had, int32 `(batch, longest)`, padded with -1.

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
    """The values of a variable: on a CPU the very ones, not a copy.

    `ops.convert_to_numpy` copies, which for one user would take longer than
    all the rest.
    """
    if keras.backend.backend() == "torch":
        return ops.convert_to_numpy(variable)
    return np.asarray(variable.value)
