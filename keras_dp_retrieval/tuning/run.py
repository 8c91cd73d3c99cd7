"""`search`: many trials, each on all devices, and what they found."""

import os
import pathlib

import keras_tuner

from keras_dp_retrieval import _checks, distribution
from keras_dp_retrieval.tuning import search_settings, stopping, tuners
from keras_dp_retrieval.tuning.frozen_heap import frozen_heap
from keras_dp_retrieval.tuning.hypermodel import RetrievalHyperModel
from keras_dp_retrieval.tuning.results import BEST_SNIPPET, SearchResult
from keras_dp_retrieval.tuning.status_lines import StatusLines

TUNERS = ("random", "bayesian", "hyperband", "grid")
COMPILED = "compiled"  # Folder of the compiled programs of all searches.


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

    Killed at any moment and called again with the same arguments, it resumes:
    finished trials stay, the interrupted one continues after its last whole
    epoch, and the result is that of a search that was never interrupted.

    With KerasTuner's environment variables (`KERASTUNER_TUNER_ID`,
    `KERASTUNER_ORACLE_IP`, `KERASTUNER_ORACLE_PORT`) set, one process, whose
    id has `chief` in it, hands out the trials and several others run them.
    They must share `directory`. All return when all trials have ended. In
    which order trials end then depends on how fast the workers are, and so
    does what the search tries next and stops early.

    Example:

    ```python
    result = kdr.search(data, max_trials=12, learning_rate=(0.01, 1.0))
    print(result.table())
    model = result.best_model
    ```

    Args:
        data: `RetrievalDataset`, or an instance of a subclass.
        tuner: str. `"random"`, `"bayesian"`, `"hyperband"` (which decides
            itself how many epochs a trial gets; `patience` and
            `median_stopping` have no effect) or `"grid"` (which tries all
            combinations, so give the values of `learning_rate`, not a range).
        max_trials: int. The largest number of trials.
        epochs: int. The largest number of epochs of a trial.
        directory: Folder of all searches.
        project_name: str. Name of this search's folder in `directory`.
        objective: What is optimized: a name from the logs or a
            `keras_tuner.Objective`. A name that ends with `loss` is
            minimized, others are maximized.
        seed: int. Of the choice of hyperparameters and of every trial's
            initial weights. 0 is a seed like any other.
        patience: int, or None for never. A trial stops after so many epochs
            without a better value of the objective.
        median_stopping: bool. Whether a trial stops when, after a quarter of
            its epochs, it is worse than half of the finished trials were; see
            `MedianStopping`.
        overwrite: bool. Whether to delete what is in the search's folder and
            start over, instead of resuming.
        hypermodel: Optional `RetrievalHyperModel`, or an instance of a
            subclass, instead of `data` and `options`.
        callbacks: Keras callbacks for every trial; they are copied for each.
        verbose: int. 0 prints nothing.
        **options: As in `RetrievalHyperModel`, such as `learning_rate`.

    Returns:
        `SearchResult`. Its folder has the best model as `best.keras`. The
        distribution of the trials stays set.

    Raises:
        RuntimeError: If this is one of several processes that train
            together, if no trial had a score (the first trial's error is its
            cause), or if a trial was on other devices than asked for.
        ValueError: If the folder has a search with other settings.
    """
    if distribution.process_count() > 1:
        raise RuntimeError(
            "`search` must run in one process, whose trials use all devices of "
            f"its host. Received: one of {distribution.process_count()} "
            "processes that train together. For several hosts use KerasTuner's "
            "own variables, KERASTUNER_TUNER_ID and the others."
        )
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
    objective = search_settings.objective(objective)
    hypermodel = _given_or_made(hypermodel, data, seed, options)
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
        search_settings.check(folder, settings)
    status = StatusLines(folder, objective, max_trials, verbose)
    fit = {"epochs": epochs}
    if objective.name == "val_loss":
        fit["validation_data"] = hypermodel.data.validation
    from keras_dp_retrieval._jax import compilation_cache

    compiled = pathlib.Path(directory) / COMPILED
    with compilation_cache.kept_in(compiled), frozen_heap():
        running = tuners.make(
            tuner,
            objective=objective,
            max_trials=max_trials,
            epochs=epochs,
            seed=seed,
            hypermodel=hypermodel,
            on_trial_end=status.trial_ended,
            directory=os.fspath(directory),
            project_name=project_name,
            # A worker that comes late would delete what others have done.
            overwrite=overwrite and not tuners.is_worker(),
        )
        search_settings.write(folder, settings)
        early = []
        if tuner != "hyperband":
            early = stopping.callbacks(
                folder, objective, epochs, patience, median_stopping
            )
        status.begin()
        _run(running, [*callbacks, *early], fit)
        return _finish(running, hypermodel, status)


def _given_or_made(hypermodel, data, seed, options) -> RetrievalHyperModel:
    if hypermodel is None:
        return RetrievalHyperModel(data, seed=seed, **options)
    if data is not None or options:
        raise ValueError(
            "Give either `hypermodel`, or `data` and its options. Received: "
            f"both, with {sorted(options)}."
        )
    return hypermodel


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


def _finish(tuner, hypermodel, status) -> SearchResult:
    """Saves the best model where the trials were chosen, and reports."""
    result = status.result()
    if tuners.is_worker():
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
    status.end(result)
    return result
