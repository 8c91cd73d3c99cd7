"""The search."""

import contextlib
import gc
import json
import os
import pathlib
import time

import keras
import keras_tuner

from keras_dp_retrieval import _checks
from keras_dp_retrieval.tuning import hparams, tuners
from keras_dp_retrieval.tuning.hypermodel import RetrievalHyperModel
from keras_dp_retrieval.tuning.progress import write_json
from keras_dp_retrieval.tuning.results import (
    BEST_SNIPPET,
    SearchResult,
    TrialResult,
)
from keras_dp_retrieval.tuning.stopping import MedianStopping

TUNERS = ("random", "bayesian", "hyperband", "grid")
COMPILED = "compiled"  # Folder of the compiled programs of all searches.
SETTINGS = "search.json"  # What a search was started with.


def search(
    data=None,
    *,
    tuner: str = "random",
    max_trials: int = 12,
    epochs: int = 20,
    directory: str | os.PathLike = "tuning",
    project_name: str = "search",
    objective="val_ndcg_at_10",
    seed: int = 0,
    patience: int | None = 5,
    median_stopping: bool = True,
    overwrite: bool = False,
    hypermodel: RetrievalHyperModel | None = None,
    callbacks=(),
    verbose: int = 1,
    **options,
) -> SearchResult:
    """Searches for the best model on a data set; every trial on all devices.

    Killed at any moment and called again with the same arguments, it goes on:
    finished trials stay, the interrupted one goes on after its last whole
    epoch, and the result is that of a search that was never interrupted.

    With KerasTuner's environment variables (`KERASTUNER_TUNER_ID`,
    `KERASTUNER_ORACLE_IP`, `KERASTUNER_ORACLE_PORT`) set, one process, whose
    id has `chief` in it, hands out the trials and several others run them.
    They must share `directory`. All return when all trials have ended. The
    order in which trials end then depends on the workers' pace, and with it
    what the search tries next and stops early.

    Args:
        data: `RetrievalDataset`, or one of its children.
        tuner: `"random"`, `"bayesian"`, `"hyperband"` (which decides itself
            how many epochs a trial gets, and when it stops) or `"grid"` (for
            which `learning_rate` is better a list than a range).
        max_trials: int. Trials at most.
        epochs: int. Epochs of a trial at most.
        directory: Where searches are kept.
        project_name: str. The search's own folder in there.
        objective: What is optimized: a name from the logs or a
            `keras_tuner.Objective`. A name that ends with `loss` is
            minimized, others are maximized.
        seed: int. Of the choice of hyperparameters and of every trial's
            weights. 0 is a seed, too.
        patience: int, or None for never. A trial stops after so many epochs
            without a better value of the objective.
        median_stopping: bool. Whether a trial stops when, after a quarter of
            its epochs, it is worse than half of the finished trials were; see
            `MedianStopping`.
        overwrite: bool. Begins anew instead of going on.
        hypermodel: Optional `RetrievalHyperModel` or a child of it, instead
            of `data` and `options`.
        callbacks: Keras callbacks for every trial; they are copied for each.
        verbose: int. 0 prints nothing.
        **options: As in `RetrievalHyperModel`, such as `learning_rate`.

    Returns:
        `SearchResult`. Its folder has the best model as `best.keras`. The
        distribution of the trials stays in force.

    Raises:
        RuntimeError: If no trial had a score; the first trial's error is its
            cause. If a trial was on other devices than asked for.
    """
    _checks.one_of("tuner", tuner, TUNERS)
    directory = _checks.path("directory", directory)
    project_name = _checks.path(
        "project_name", _checks.text("project_name", project_name)
    )
    if patience is not None:
        patience = _checks.positive_int("patience", patience)
    median_stopping = _checks.flag("median_stopping", median_stopping)
    overwrite = _checks.flag("overwrite", overwrite)
    if not isinstance(callbacks, (list, tuple)):
        raise ValueError(
            "`callbacks` must be a list of Keras callbacks. Received: "
            f"callbacks={callbacks!r}."
        )
    max_trials = _checks.positive_int("max_trials", max_trials)
    epochs = _checks.positive_int("epochs", epochs)
    seed = _checks.non_negative_int("seed", seed)
    objective = _objective(objective)
    if hypermodel is None:
        hypermodel = RetrievalHyperModel(data, seed=seed, **options)
    elif data is not None or options:
        raise ValueError(
            "Give either `hypermodel`, or `data` and its options. Received: "
            f"both, with {sorted(options)}."
        )
    folder = pathlib.Path(directory) / project_name
    settings = {
        "tuner": tuner,
        "epochs": epochs,
        "objective": objective.name,
        "direction": objective.direction,
        "seed": seed,
        "patience": patience,
        "median_stopping": median_stopping,
        "data": repr(hypermodel.data),
        **hypermodel.get_settings(),
    }
    if not overwrite:
        _check_settings(folder / SETTINGS, settings)
    told = _Progress(folder, objective, max_trials, verbose)
    fit = {"epochs": epochs}
    if objective.name == "val_loss":
        fit["validation_data"] = hypermodel.data.validation
    from keras_dp_retrieval._jax import compilation_cache

    compiled = pathlib.Path(directory) / COMPILED
    with compilation_cache.kept_in(compiled), _quick_collection():
        running = tuners.make(
            tuner,
            objective=objective,
            max_trials=max_trials,
            epochs=epochs,
            seed=seed,
            hypermodel=hypermodel,
            on_trial_end=told.trial_ended,
            directory=os.fspath(directory),
            project_name=project_name,
            # A worker that comes late would delete what others have done.
            overwrite=overwrite and not _is_worker(),
        )
        # KerasTuner has deleted it, if it was to be overwritten.
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SETTINGS, settings)
        stopping = []
        if tuner != "hyperband":
            stopping = _stopping(
                objective, folder, epochs, patience, median_stopping
            )
        told.begin()
        _run(running, [*callbacks, *stopping], fit)
        return _finish(running, hypermodel, told)


@contextlib.contextmanager
def _quick_collection():
    """Spares the garbage collector what was there before the search.

    KerasTuner calls it twice a trial. To look through the modules of JAX,
    Keras and TensorFlow each time takes most of a short trial's time.
    """
    if gc.get_freeze_count():
        yield  # The user has done so.
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _is_worker() -> bool:
    """Whether this process runs trials that another one hands out."""
    name = os.environ.get("KERASTUNER_TUNER_ID", "")
    return "KERASTUNER_ORACLE_IP" in os.environ and "chief" not in name


def _objective(given):
    if isinstance(given, keras_tuner.Objective):
        return given
    given = _checks.text("objective", given)
    # KerasTuner guesses the direction of Keras' own metrics alone.
    direction = "min" if given.endswith("loss") else "max"
    return keras_tuner.Objective(given, direction)


def _check_settings(path, settings):
    """Raises if a search in the same folder was started differently."""
    if not path.exists():
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(settings))
    for name in sorted(now.keys() | before.keys()):
        if now.get(name) != before.get(name):
            raise ValueError(
                f"A search goes on with what it was started with. Received: "
                f"{name}={now.get(name)!r}, but {path.parent} was started with "
                f"{before.get(name)!r}. Use another `project_name`, or "
                "`overwrite=True` to begin anew."
            )


def _stopping(objective, folder, epochs, patience, median_stopping) -> list:
    stopping = []
    if patience is not None:
        stopping.append(
            keras.callbacks.EarlyStopping(
                objective.name,
                mode=objective.direction,
                patience=_checks.positive_int("patience", patience),
            )
        )
    if median_stopping:
        stopping.append(
            MedianStopping(
                folder, objective.name, objective.direction, epochs // 4
            )
        )
    return stopping


def _run(tuner, callbacks, fit):
    try:
        tuner.search(callbacks=callbacks, verbose=0, **fit)
    except keras_tuner.errors.FatalError:
        raise
    except RuntimeError as error:
        if tuner.first_error is None:
            raise
        # KerasTuner gives up after three failures in a row.
        raise RuntimeError(
            f"The search was given up: {error.args[0].splitlines()[0]} The "
            f"first error was: {tuner.first_error!r}"
        ) from tuner.first_error


def _finish(tuner, hypermodel, told) -> SearchResult:
    """Saves the best model where the trials were chosen, and reports."""
    result = told.result()
    if _is_worker():
        return result
    if not result.completed:
        first = next((t for t in result.trials if t.message), None)
        raise RuntimeError(
            f"All {len(result.trials)} trials failed. "
            + (
                f"Trial {first.trial_id} with {first.chosen} said: "
                f"{first.message}"
                if first
                else ""
            )
        ) from tuner.first_error
    best = tuner.get_best_models()[0]
    best.save(result.best_model_path)
    trial = result.best_trial
    snippet = hypermodel.snippet(trial.chosen, trial.best_epoch)
    (result.folder / BEST_SNIPPET).write_text(snippet, encoding="utf-8")
    told.end(result)
    return result


class _Progress:
    """Tells how far a search is, a line for each trial."""

    def __init__(self, folder, objective, max_trials, verbose):
        self._folder = folder
        self._objective = objective
        self._max_trials = max_trials
        self._verbose = verbose

    def result(self) -> SearchResult:
        return SearchResult(
            self._folder, self._objective.name, self._objective.direction
        )

    def begin(self):
        self._began = time.perf_counter()
        self._done_before = len(self.result().trials)

    def trial_ended(self, trial_id: str):
        trial = TrialResult.read(
            self._folder / f"trial_{trial_id}", self._objective.name
        )
        hparams.write(self._folder, trial, self._objective.name)
        if self._verbose:
            print(self._line(trial), flush=True)

    def _line(self, trial) -> str:
        result = self.result()
        ended = [t for t in result.trials if t.status != "RUNNING"]
        done = len(ended)
        values = " ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else
            f"{name}={value}"
            for name, value in trial.chosen.items()
        )  # fmt: skip
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
        here = max(done - self._done_before, 1)
        left = (time.perf_counter() - self._began) / here
        left *= self._max_trials - done
        return (
            f"{bar} {done}/{self._max_trials} trial {trial.trial_id}: {values}"
            f" -> {score}{best}; {trial.seconds:.1f} s on "
            f"{trial.num_devices or 0} device(s), at most {left:.0f} s left"
        )

    def end(self, result):
        if self._verbose:
            print(result.table())
