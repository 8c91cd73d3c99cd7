"""KerasTuner's tuners, made to go on exactly where they were killed.

KerasTuner writes its state after every trial and reads it again. What it
leaves out makes a search that goes on differ from one that was never stopped:

- `GridSearchOracle` does not save which combinations are to come: it fails
  with a `KeyError` after the first trial of the second run.
- `BayesianOptimizationOracle` does not save its random numbers, and reads the
  trials back in the order of the file system, which its sums depend on.
- Files are written in place, so a process that is killed while it writes
  leaves half a file, which cannot be read.
"""

import os

import keras_tuner
import numpy as np

from keras_dp_retrieval.tuning.progress import write_json


class _Resumable:
    """What all oracles need; comes before KerasTuner's class."""

    def save(self):
        write_json(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial):
        folder = self._get_trial_dir(trial.trial_id)
        write_json(os.path.join(folder, "trial.json"), trial.get_state())

    def _check_consecutive_failures(self):
        # Three failures in a row end a search. A trial that diverged is not
        # one of them: that its hyperparameters will not do is an answer.
        all_ended = self.end_order
        self.end_order = [
            trial_id
            for trial_id in all_ended
            if "FloatingPointError" not in (self.trials[trial_id].message or "")
        ]
        try:
            super()._check_consecutive_failures()
        finally:
            self.end_order = all_ended

    def reload(self):
        super().reload()
        self.trials = dict(sorted(self.trials.items()))


class RandomOracle(_Resumable, keras_tuner.oracles.RandomSearchOracle):
    """Random search."""


class HyperbandOracle(_Resumable, keras_tuner.oracles.HyperbandOracle):
    """Hyperband."""


class BayesianOracle(
    _Resumable, keras_tuner.oracles.BayesianOptimizationOracle
):
    """Bayesian optimization, whose random numbers depend on the trial."""

    def populate_space(self, trial_id):
        self._random_state = np.random.RandomState(
            [self.seed, len(self.trials)]
        )
        return super().populate_space(trial_id)


class GridOracle(_Resumable, keras_tuner.oracles.GridSearchOracle):
    """Grid search that saves which combinations are to come."""

    def get_state(self):
        ids = []
        following = self._ordered_ids._next_index[None]
        while following is not None:
            ids.append(self._ordered_ids._memory[following])
            following = self._ordered_ids._next_index[following]
        grid = {"ordered_ids": ids, "populate_next": self._populate_next}
        return {**super().get_state(), "grid": grid}

    def set_state(self, state):
        super().set_state(state)
        self._ordered_ids = type(self._ordered_ids)()
        for trial_id in state["grid"]["ordered_ids"]:
            self._ordered_ids.insert(trial_id)
        self._populate_next = state["grid"]["populate_next"]

    def end_trial(self, trial):
        super().end_trial(trial)
        # The one above writes its state before it knows what comes next.
        self.save()


class _Searching:
    """What all tuners need; comes before KerasTuner's class.

    Args:
        on_trial_end: callable that is given the trial's id when it has ended.
    """

    def __init__(self, oracle, hypermodel, on_trial_end, **kwargs):
        self._tell = on_trial_end
        self.first_error: Exception | None = None
        # Past Hyperband's own, which would make an oracle of its own.
        keras_tuner.Tuner.__init__(self, oracle, hypermodel, **kwargs)

    def save(self):
        if not self._is_worker():
            self.oracle.save()
        write_json(self._get_tuner_fname(), self.get_state())

    def on_search_begin(self):
        super().on_search_begin()
        # From the first trial on there is something to go on from.
        self.save()

    def run_trial(self, trial, *args, **kwargs):
        try:
            return super().run_trial(trial, *args, **kwargs)
        except Exception as error:
            self.first_error = self.first_error or error
            raise

    def on_trial_end(self, trial):
        super().on_trial_end(trial)
        self._tell(trial.trial_id)


class SearchTuner(_Searching, keras_tuner.Tuner):
    """Runs the trials of any oracle but Hyperband's."""


class HyperbandTuner(_Searching, keras_tuner.Hyperband):
    """Runs the trials of Hyperband, which go on from earlier ones."""


def make(kind: str, *, objective, max_trials, epochs, seed, **kwargs):
    """Returns a tuner: `"random"`, `"bayesian"`, `"hyperband"` or `"grid"`.

    Args:
        objective: `keras_tuner.Objective`.
        max_trials: int.
        epochs: int. Of a trial, at most.
        seed: int. 0 is a seed like any other.
        **kwargs: For the tuner.
    """
    # KerasTuner takes 0 for "no seed".
    options = {"objective": objective, "seed": seed or 2**31 - 1}
    if kind == "hyperband":
        oracle = HyperbandOracle(max_epochs=epochs, **options)
        oracle.max_trials = max_trials
        return HyperbandTuner(oracle, **kwargs)
    oracles = {
        "random": RandomOracle,
        "bayesian": BayesianOracle,
        "grid": GridOracle,
    }
    return SearchTuner(
        oracles[kind](max_trials=max_trials, **options), **kwargs
    )
