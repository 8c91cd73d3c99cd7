"""What a search was started with: checked before it, compared on resuming."""

import json
import pathlib

import keras_tuner

from keras_dp_retrieval import _checks
from keras_dp_retrieval.tuning.progress import write_json

FILE = "search.json"


def objective(given) -> keras_tuner.Objective:
    """What is optimized, with its direction."""
    if isinstance(given, keras_tuner.Objective):
        return given
    given = _checks.text("objective", given)
    # KerasTuner guesses the direction of Keras' own metrics alone.
    direction = "min" if given.endswith("loss") else "max"
    return keras_tuner.Objective(given, direction)


def write(folder: pathlib.Path, settings: dict) -> None:
    """Writes down what a search is started with."""
    # KerasTuner has deleted the folder, if it was to be overwritten.
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FILE, settings)


def check(folder: pathlib.Path, settings: dict) -> None:
    """Raises if a search in this folder was started with other settings."""
    path = folder / FILE
    if not path.exists():
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(settings))
    for name in sorted(now.keys() | before.keys()):
        if now.get(name) != before.get(name):
            raise ValueError(
                "A search is resumed with the settings that it was started "
                f"with. Received: {name}={now.get(name)!r}, but {folder} was "
                f"started with {before.get(name)!r}. Use another "
                "`project_name`, or `overwrite=True` to start over."
            )
