"""When a trial is not worth its time."""

import pathlib
import statistics

import keras

from keras_dp_retrieval.tuning import progress

# Of so few other trials the median says little.
FEWEST_TRIALS = 3


class MedianStopping(keras.callbacks.Callback):
    """Stops a trial that does worse than half of the finished ones.

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
            for curve in map(self._curve, sorted(self._folder.glob("trial_*")))
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
