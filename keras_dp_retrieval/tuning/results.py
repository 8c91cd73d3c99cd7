"""What a search found: a table, a figure, the best model and how to make it."""

import dataclasses
import functools
import math
import os
import pathlib
import statistics

import keras

from keras_dp_retrieval.report import text_table
from keras_dp_retrieval.tuning import _keras_tuner, progress

BEST_MODEL = "best.keras"
BEST_SNIPPET = "best.py"


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """One trial.

    Attributes:
        trial_id: str.
        values: dict. Values of the hyperparameters.
        status: str. KerasTuner's, or `"STOPPED EARLY"` of a completed trial
            that did not train all its epochs.
        score: float, the best value of the objective, or None.
        best_epoch: int, counted from 1, or None without a score.
        curve: floats, the objective after each epoch.
        examples_per_second: float, median over the epochs that did not
            compile, or None.
        compile_seconds: float, over all programs of the trial.
        seconds: float, of all epochs.
        num_devices: int, or None if no epoch ended.
        message: str. Why it failed, or empty.
    """

    trial_id: str
    values: dict
    status: str
    score: float | None = None
    best_epoch: int | None = None
    curve: tuple[float, ...] = ()
    examples_per_second: float | None = None
    compile_seconds: float = 0.0
    seconds: float = 0.0
    num_devices: int | None = None
    message: str = ""

    @classmethod
    def read(cls, folder: str | os.PathLike, objective: str) -> "TrialResult":
        """Reads a trial from its folder."""
        folder = pathlib.Path(folder)
        trial = _keras_tuner.read_trial(folder)
        found = progress.read(folder)
        epochs = found.get("epochs", [])
        curve = tuple(past["logs"].get(objective, math.nan) for past in epochs)
        status = trial["status"]
        if status == "COMPLETED" and found.get("stopped_early"):
            status = "STOPPED EARLY"
        score = trial["score"]
        at = curve.index(score) if score in curve else None
        lines = (trial["message"] or "").strip().splitlines()
        return cls(
            trial_id=trial["trial_id"],
            values=trial["values"],
            status=status,
            score=score,
            best_epoch=None if at is None else epochs[at]["epoch"] + 1,
            curve=curve,
            examples_per_second=_throughput(epochs),
            compile_seconds=sum(past["compile_seconds"] for past in epochs),
            seconds=sum(past["seconds"] for past in epochs),
            num_devices=epochs[-1]["num_devices"] if epochs else None,
            message=lines[-1] if lines else "",
        )

    @property
    def chosen(self) -> dict:
        """Values of the hyperparameters, without KerasTuner's own entries."""
        return {
            name: value
            for name, value in self.values.items()
            if not _keras_tuner.is_own_value(name)
        }


def _throughput(epochs) -> float | None:
    steady = [past for past in epochs if past["is_steady"]] or epochs
    rates = [past["logs"].get("examples_per_second") for past in steady]
    known = [rate for rate in rates if rate and math.isfinite(rate)]
    return statistics.median(known) if known else None


class SearchResult:
    """The trials of a search, read from its folder.

    A search that is still running, or was interrupted, has results too.

    Attributes:
        folder: `pathlib.Path`, the directory and the project's name.
        objective: str. Name of what was optimized.
        direction: `"max"` or `"min"`.
        trials: list of `TrialResult` in the order of their ids.

    Args:
        folder: The search's folder.
        objective: str.
        direction: `"max"` or `"min"`.
    """

    def __init__(
        self, folder: str | os.PathLike, objective: str, direction: str
    ):
        self.folder = pathlib.Path(folder)
        self.objective = objective
        self.direction = direction
        self.trials = [
            TrialResult.read(trial_folder, objective)
            for trial_folder in _keras_tuner.trial_folders(self.folder)
        ]

    @property
    def completed(self) -> list[TrialResult]:
        """The trials with a score, best first."""
        ended = [
            (trial.score, trial)
            for trial in self.trials
            if trial.status in ("COMPLETED", "STOPPED EARLY")
            and trial.score is not None
        ]
        is_max = self.direction == "max"
        ended.sort(key=lambda pair: pair[0], reverse=is_max)
        return [trial for _, trial in ended]

    @property
    def best_trial(self) -> TrialResult:
        """The trial with the best score."""
        if not self.completed:
            raise ValueError("There is no best trial: none has a score yet.")
        return self.completed[0]

    @property
    def best_hyperparameters(self) -> dict:
        """Name to value, of the best trial."""
        return self.best_trial.chosen

    @property
    def best_model_path(self) -> pathlib.Path:
        """Where the best model is saved; not there while trials run."""
        return self.folder / BEST_MODEL

    @functools.cached_property
    def best_model(self):
        """The best trial's model, as it was after its best epoch."""
        return keras.saving.load_model(self.best_model_path)

    @property
    def snippet(self) -> str:
        """Python code that makes and trains the best model again."""
        return (self.folder / BEST_SNIPPET).read_text(encoding="utf-8")

    def table(self) -> str:
        """All trials as text, one a line, best first."""
        others = [t for t in self.trials if t not in self.completed]
        ordered = [*self.completed, *others]
        names = list(dict.fromkeys(n for t in ordered for n in t.chosen))
        headers = ["trial", *names, self.objective, "best epoch", "epochs"]
        headers += ["examples/s", "compile s", "seconds", "devices", "status"]
        rows = [
            [
                trial.trial_id,
                *(_shown(trial.chosen.get(name)) for name in names),
                _shown(trial.score, 4),
                _shown(trial.best_epoch),
                str(len(trial.curve)),
                _shown(trial.examples_per_second, grouped=True),
                f"{trial.compile_seconds:.2f}",
                f"{trial.seconds:.1f}",
                _shown(trial.num_devices),
                f"{trial.status} {trial.message}".strip(),
            ]
            for trial in ordered
        ]
        return text_table(headers, rows, left=-1)

    def plot(self, path: str | os.PathLike | None = None):
        """Returns a matplotlib figure: the trials' scores, and their curves.

        Args:
            path: Optional file to write the figure to, such as `"trials.png"`.

        Raises:
            ImportError: If matplotlib is not installed; names the command
                that installs it.
        """
        from keras_dp_retrieval.tuning import trials_figure

        return trials_figure.draw(self, path)


def _shown(value, digits: int = 3, grouped: bool = False) -> str:
    if value is None:
        return "-"
    if grouped:
        return f"{value:,.0f}"
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return str(value)
