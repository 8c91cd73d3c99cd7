"""A line of text for each trial of a search that is running."""

import time

from keras_dp_retrieval.tuning import _keras_tuner, hparams
from keras_dp_retrieval.tuning.results import SearchResult, TrialResult


class StatusLines:
    """Prints how far a search is whenever a trial ends.

    Args:
        folder: `pathlib.Path`, the search's folder.
        objective: `keras_tuner.Objective`.
        max_trials: int.
        verbose: int. 0 prints nothing.
    """

    def __init__(self, folder, objective, max_trials, verbose):
        self._folder = folder
        self._objective = objective
        self._max_trials = max_trials
        self._verbose = verbose

    def result(self) -> SearchResult:
        """What the search has found so far."""
        return SearchResult(
            self._folder, self._objective.name, self._objective.direction
        )

    def begin(self):
        self._began = time.perf_counter()
        self._done_before = len(self.result().trials)

    def trial_ended(self, trial_id: str):
        trial = TrialResult.read(
            _keras_tuner.trial_folder(self._folder, trial_id),
            self._objective.name,
        )
        hparams.write(self._folder, trial, self._objective.name)
        if self._verbose:
            print(self._line(trial), flush=True)

    def end(self, result: SearchResult):
        if self._verbose:
            print(result.table())

    def _line(self, trial) -> str:
        result = self.result()
        done = len([t for t in result.trials if t.status != "RUNNING"])
        values = " ".join(
            f"{name}={_shown(value)}" for name, value in trial.chosen.items()
        )
        score = (
            trial.message
            if trial.score is None
            else f"{self._objective.name} {trial.score:.4f}"
        )
        best = ""
        if result.completed:
            best = f", best {result.best_trial.score:.4f}"
        filled = round(20 * done / self._max_trials)
        bar = f"[{'=' * filled}{'.' * (20 - filled)}]"
        return (
            f"{bar} {done}/{self._max_trials} trial {trial.trial_id}: {values}"
            f" -> {score}{best}; {trial.seconds:.1f} s on "
            f"{trial.num_devices or 0} device(s), at most "
            f"{self._seconds_left(done):.0f} s left"
        )

    def _seconds_left(self, done: int) -> float:
        ended_here = max(done - self._done_before, 1)
        seconds = (time.perf_counter() - self._began) / ended_here
        return seconds * (self._max_trials - done)


def _shown(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
