"""What KerasTuner does not export, in one place.

Underscore names of its oracles and tuners, attributes of classes that only
`keras_tuner.src` names, and the layout of its files stand here and nowhere
else; each says why it is needed, where it is upstream, and what would replace
it. A new name needs a test in `tests/test_contracts.py` that fails with a
sentence when a release of KerasTuner changes it. What is public is used from
`keras_tuner` as usual. Files without a folder are of `keras_tuner/src/`.
"""

import json
import os
import pathlib

import numpy as np

TRIAL_FILE = "trial.json"


# Oracles


class OracleHooks:
    """Hooks that KerasTuner's oracles lack; comes before their class.

    Of `engine/oracle.py`. All of it goes when KerasTuner replaces its files
    as a whole, and lets a subclass say which failures count.
    """

    @property
    def state_file(self):
        """Path (str) where `save` writes the state, and `reload` reads it.

        `Stateful.save(fname)` is public and takes a path; `Oracle.save()`
        takes none and asks this one.
        """
        return self._get_oracle_fname()

    def write_trial(self, trial, path: str) -> None:
        """Writes a trial to its file; overridden by subclasses."""
        raise NotImplementedError

    def ignores_failure(self, trial) -> bool:
        """Whether a trial is left out where failures in a row are counted."""
        return False

    def _save_trial(self, trial):
        # Called by `create_trial`, `update_trial` and `end_trial`. Upstream
        # writes the file in place, so that a killed process leaves half of it.
        folder = self._get_trial_dir(trial.trial_id)
        self.write_trial(trial, os.path.join(folder, TRIAL_FILE))

    def _check_consecutive_failures(self):
        # Called by `end_trial`: ends the search after
        # `max_consecutive_failed_trials` (public) of any kind.
        all_ended = self.end_order
        self.end_order = [
            trial_id
            for trial_id in all_ended
            if not self.ignores_failure(self.trials[trial_id])
        ]
        try:
            super()._check_consecutive_failures()
        finally:
            self.end_order = all_ended


def set_random_points(oracle, seed) -> None:
    """Seeds the points from which a Bayesian search looks for its next trial.

    `BayesianOptimizationOracle._random_state` (`tuners/bayesian.py`) is made
    from `seed` once and not saved. Goes when its `get_state` has it.
    """
    oracle._random_state = np.random.RandomState(seed)


def grid_state(oracle) -> dict:
    """What a grid search knows of the combinations that are to come.

    `GridSearchOracle` (`tuners/gridsearch.py`) does not save it
    (keras-tuner#1055). Goes when it does (keras-tuner#1056 is open).

    Returns:
        dict for JSON: `ordered_ids`, the trials in the order of the grid, and
        `populate_next`, those whose successor has not been tried.
    """
    linked = oracle._ordered_ids
    ids = []
    following = linked._next_index[None]
    while following is not None:
        ids.append(linked._memory[following])
        following = linked._next_index[following]
    return {"ordered_ids": ids, "populate_next": oracle._populate_next}


def set_grid_state(oracle, state: dict) -> None:
    """The inverse of `grid_state`."""
    oracle._ordered_ids = type(oracle._ordered_ids)()
    for trial_id in state["ordered_ids"]:
        oracle._ordered_ids.insert(trial_id)
    oracle._populate_next = state["populate_next"]


# Tuners


def tuner_file(tuner) -> str:
    """Where `BaseTuner.save` (`engine/base_tuner.py`) writes a tuner's state.

    Goes when KerasTuner replaces its files as a whole.
    """
    return tuner._get_tuner_fname()


def trial_hook(callbacks):
    """The callback through which a tuner follows the epochs of a trial.

    `TunerCallback` (`engine/tuner_utils.py`) is not exported, so it is known
    by its attributes `tuner` and `trial`. `HyperModel.fit` gets them in no
    other way; goes when it does.
    """
    for callback in callbacks:
        if hasattr(callback, "tuner") and hasattr(callback, "trial"):
            return callback
    raise ValueError(
        "`fit` must be called by a KerasTuner tuner, which hands over its own "
        "callbacks. Received: none of them."
    )


def restore_best_value(callbacks, epochs) -> None:
    """Gives the callback that saves the best epoch the value to beat.

    `SaveBestEpoch` (`engine/tuner_utils.py`) begins with infinity: it would
    take the first epoch after a restart for the best, and overwrite the
    weights of the one that was. Goes when a trial of KerasTuner can be
    resumed (keras-tuner#439).

    Args:
        callbacks: All callbacks of a trial.
        epochs: dicts with `logs`, of the epochs before the restart.
    """
    for callback in callbacks:
        if not hasattr(callback, "best_value"):
            continue
        objective = callback.objective
        values = [
            objective.get_value(past["logs"])
            for past in epochs
            if objective.has_value(past["logs"])
        ]
        best = max if objective.direction == "max" else min
        callback.best_value = best([callback.best_value, *values])


# Files. KerasTuner reads them only into a tuner that was made like the one
# that wrote them; a table of results needs neither model nor data. Go when
# KerasTuner has a reader of finished searches.


def trial_folder(search_folder: pathlib.Path, trial_id: str) -> pathlib.Path:
    """The folder of a trial, as `Tuner.get_trial_dir` names it."""
    return search_folder / f"trial_{trial_id}"


def trial_folders(search_folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders of all trials of a search, in the order of their ids."""
    return sorted(
        path.parent for path in search_folder.glob(f"trial_*/{TRIAL_FILE}")
    )


def read_trial(folder: pathlib.Path) -> dict:
    """What KerasTuner wrote down of a trial (`engine/trial.py`).

    Returns:
        dict with `trial_id`; `values` of the hyperparameters; `status`, such
        as `"COMPLETED"`; `score`, a float or None; and `message`, a traceback
        or None.
    """
    text = (folder / TRIAL_FILE).read_text(encoding="utf-8")
    state = json.loads(text)
    return {
        "trial_id": state["trial_id"],
        "values": state["hyperparameters"]["values"],
        "status": state["status"],
        "score": state["score"],
        "message": state["message"],
    }


def is_own_value(name: str) -> bool:
    """Whether a value of a trial is KerasTuner's own bookkeeping.

    `HyperbandOracle` (`tuners/hyperband.py`) keeps its rounds among the
    hyperparameters, by names such as `tuner/epochs`.
    """
    return name.startswith("tuner/")
