"""KerasTuner's tuners, made to continue exactly where they were killed.

KerasTuner writes its state after every trial and reads it again. What it
leaves out makes a resumed search differ from one that was never stopped:

- `GridSearchOracle` does not save which combinations are to come: it fails
  with a `KeyError` after the first trial of the second run.
- `BayesianOptimizationOracle` does not save its random state, and reads the
  trials in the order of the file system, which its sums depend on.
- Files are written in place, so a process that is killed while it writes
  leaves half a file, which cannot be read.
"""

import os

import keras_tuner

from keras_dp_retrieval.tuning import _keras_tuner
from keras_dp_retrieval.tuning.progress import write_json


def is_worker() -> bool:
    """Whether this process runs trials that another one hands out."""
    name = os.environ.get("KERASTUNER_TUNER_ID", "")
    return "KERASTUNER_ORACLE_IP" in os.environ and "chief" not in name


class _Resumable(_keras_tuner.OracleHooks):
    """What all oracles need; comes before KerasTuner's class."""

    def save(self):
        write_json(self.state_file, self.get_state())

    def write_trial(self, trial, path):
        write_json(path, trial.get_state())

    def ignores_failure(self, trial):
        # Three failures in a row end a search. A trial that diverged is not
        # one of them: it tells that its hyperparameters do not work.
        return "FloatingPointError" in (trial.message or "")

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
        _keras_tuner.set_random_points(self, [self.seed, len(self.trials)])
        return super().populate_space(trial_id)


class GridOracle(_Resumable, keras_tuner.oracles.GridSearchOracle):
    """Grid search that saves which combinations are to come."""

    def get_state(self):
        return {**super().get_state(), "grid": _keras_tuner.grid_state(self)}

    def set_state(self, state):
        super().set_state(state)
        _keras_tuner.set_grid_state(self, state["grid"])

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
        self._call_at_trial_end = on_trial_end
        self.first_error: Exception | None = None
        # Past Hyperband's own, which would make an oracle of its own.
        keras_tuner.Tuner.__init__(self, oracle, hypermodel, **kwargs)

    def save(self):
        if not is_worker():
            self.oracle.save()
        write_json(_keras_tuner.tuner_file(self), self.get_state())

    def on_search_begin(self):
        super().on_search_begin()
        # So that a search that is killed in its first trial can be resumed.
        self.save()

    def run_trial(self, trial, *args, **kwargs):
        try:
            return super().run_trial(trial, *args, **kwargs)
        except Exception as error:
            self.first_error = self.first_error or error
            raise

    def on_trial_end(self, trial):
        super().on_trial_end(trial)
        self._call_at_trial_end(trial.trial_id)


class SearchTuner(_Searching, keras_tuner.Tuner):
    """Runs the trials of any oracle but Hyperband's."""


class HyperbandTuner(_Searching, keras_tuner.Hyperband):
    """Runs the trials of Hyperband, which continue earlier ones."""


def make(kind: str, *, objective, max_trials, epochs, seed, **kwargs):
    """Returns a tuner: `"random"`, `"bayesian"`, `"hyperband"` or `"grid"`.

    Args:
        objective: `keras_tuner.Objective`.
        max_trials: int.
        epochs: int. Of a trial, at most.
        seed: int. 0 is a seed like any other.
        **kwargs: For the tuner.
    """
    # KerasTuner replaces a seed of 0 by a random one (`seed or ...`).
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
