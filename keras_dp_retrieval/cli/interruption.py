"""What is left of a training that was interrupted: its last whole epoch."""

import os

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import distribution
from keras_dp_retrieval._keras.variables import Derived


class LastWholeEpoch(keras.callbacks.Callback):
    """Keeps a copy of all that the model had learned by its last whole epoch.

    It costs one copy of the weights and of the optimizer's slots, in the
    host's memory, and the time to make it once an epoch.
    """

    def __init__(self):
        super().__init__()
        self.num_epochs = 0
        self._values: list = []
        self._shardings: list = []  # Of several processes.

    def get_state(self) -> dict:
        """Nothing: a run that is resumed has no whole epoch yet."""
        return {}

    def on_train_begin(self, logs=None):
        self.num_epochs, self._values, self._shardings = 0, [], []

    def on_epoch_end(self, epoch, logs=None):
        model = self.model
        variables = [*model.variables, *model.optimizer.variables]
        # A copy: the next step is given the memory of these.
        values = [
            (variable, np.array(ops.convert_to_numpy(variable)))
            for variable in sorted(variables, key=_is_derived)
        ]
        if not self._shardings and distribution.process_count() > 1:
            self._shardings = [
                variable.value.sharding for variable, _ in values
            ]
        # All at once, so that an interruption leaves one epoch or the other.
        self._values, self.num_epochs = values, epoch + 1

    def save_beside(self, path) -> str:
        """Saves them, for `movies.keras` as `movies.interrupted.keras`.

        Returns:
            A sentence that says what was saved.
        """
        if not self._values:
            return (
                "No epoch was whole yet, so there was nothing to save, and "
                f"{os.fspath(path)} is as it was."
            )
        beside = f"{os.path.splitext(path)[0]}.interrupted.keras"
        for index, (variable, value) in enumerate(self._values):
            if self._shardings:
                from keras_dp_retrieval._jax import replication

                # The other processes are in the middle of a step, and cannot
                # be asked whether they have the same.
                value = replication.laid_out(value, self._shardings[index])
            variable.assign(value)
        self.model.save(beside)
        return (
            f"Saved {beside}, the model as it was after epoch "
            f"{self.num_epochs}; {os.fspath(path)} is as it was."
        )


def _is_derived(variable) -> bool:
    """Whether it must be assigned behind others, from which it follows."""
    return isinstance(variable, Derived)
