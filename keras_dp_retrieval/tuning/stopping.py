"""Stops trials that fall behind the finished ones."""

import pathlib
import statistics

import keras

from keras_dp_retrieval.tuning import _keras_tuner, progress

# The median of fewer trials says little.
FEWEST_TRIALS = 3


def callbacks(folder, objective, epochs, patience, median_stopping) -> list:
    """Returns the callbacks that end a trial before its last epoch.

    Args:
        folder: The search's folder.
        objective: `keras_tuner.Objective`.
        epochs: int. Of a trial, at most.
        patience: int, or None for no `EarlyStopping`.
        median_stopping: bool.
    """
    name, direction = objective.name, objective.direction
    found: list[keras.callbacks.Callback] = []
    if patience is not None:
        found.append(
            keras.callbacks.EarlyStopping(
                name, mode=direction, patience=patience
            )
        )
    if median_stopping:
        found.append(MedianStopping(folder, name, direction, epochs // 4))
    return found


class MedianStopping(keras.callbacks.Callback):
    """Stops a trial that is worse than half of the finished ones were.

    The median rule of Vizier (Golovin et al. 2017): at the end of epoch `e`,
    stop if the trial's best value so far is worse than the median, over the
    finished trials, of their mean value up to epoch `e`. It waits for
    `FEWEST_TRIALS` finished trials and for `first_epoch`.

    The finished trials are read from the search's folder, so workers that
    share it share the rule.

    Args:
        folder: The search's folder.
        objective: str. Name in the logs.
        direction: `"max"` or `"min"`.
        first_epoch: int. The first epoch after which it may stop.
    """

    def __init__(self, folder, objective, direction, first_epoch):
        super().__init__()
        self._folder = pathlib.Path(folder)
        self._objective = objective
        self._sign = 1 if direction == "max" else -1
        self._first_epoch = first_epoch

    def on_train_begin(self, logs=None):
        self._best = -float("inf")
        self._others = [
            curve
            for curve in map(
                self._curve, _keras_tuner.trial_folders(self._folder)
            )
            if curve
        ]

    def on_epoch_end(self, epoch, logs=None):
        value = (logs or {}).get(self._objective)
        if value is None:
            return
        self._best = max(self._best, self._sign * value)
        if epoch < self._first_epoch or len(self._others) < FEWEST_TRIALS:
            return
        means = [statistics.fmean(c[: epoch + 1]) for c in self._others]
        if self._best < statistics.median(means):
            self.model.stop_training = True

    def _curve(self, folder) -> list[float]:
        """Values of the objective, epoch by epoch, of a finished trial."""
        found = progress.read(folder)
        if not found.get("finished"):
            return []
        logs = [past["logs"] for past in found["epochs"]]
        return [
            self._sign * log[self._objective]
            for log in logs
            if self._objective in log
        ]
