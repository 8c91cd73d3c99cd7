"""The progress of a trial, saved to disk after every epoch."""

import json
import os
import pathlib
import time
from typing import Any

import keras
import numpy as np
from keras import ops

FILE = "progress.json"


def write_json(path: str | os.PathLike, content) -> None:
    """Writes all of it or nothing, whenever the process is killed."""
    path = pathlib.Path(path)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    os.replace(unfinished, path)


def read(folder: str | os.PathLike) -> dict:
    """The saved progress of the trial in this folder; empty if it is new."""
    try:
        text = (pathlib.Path(folder) / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    return json.loads(text)


class TrialProgress(keras.callbacks.Callback):
    """Saves a trial after every epoch, and resumes it from there.

    Keras' `BackupAndRestore` makes the host wait for every step, and knows
    neither the random numbers of a Dropout, nor the epochs that `History` and
    `EarlyStopping` have seen before the process was killed. Must come last in
    the list of callbacks.

    The file `progress.json` is replaced as a whole, after the weights it
    names have been written: it always describes the end of an epoch.

    Args:
        folder: The trial's folder.
        identity: dict. The hyperparameters' values and whatever else makes
            the trial what it is. The progress of a trial with another
            identity in the same folder is ignored.
        throughput: `DistributionAwareCallback` in the same `fit`.
        deciders: Callbacks such as `EarlyStopping`, for which the past epochs
            are replayed before the first new one.
        devices: callable from the model to the number of its devices; raises
            if they are not those asked for.
        compiled: callable that returns seconds of compilation so far.
    """

    def __init__(
        self, folder, identity, *, throughput, deciders, devices, compiled
    ):
        super().__init__()
        self._folder = pathlib.Path(folder)
        self._throughput = throughput
        self._deciders = deciders
        self._devices = devices
        self._compiled = compiled
        identity = json.loads(json.dumps(identity))
        found = read(folder)
        if found.get("identity") != identity:
            found = {"identity": identity, "epochs": [], "finished": False}
        self._content = found

    @property
    def epochs(self) -> list[dict]:
        """One dict an epoch: `epoch`, `logs`, and what it took."""
        return self._content["epochs"]

    @property
    def finished(self) -> bool:
        """Whether there is no epoch left to train."""
        return self._content["finished"]

    def history(self) -> keras.callbacks.History:
        """All epochs, those before a restart included."""
        history = keras.callbacks.History()
        history.on_train_begin()
        for past in self.epochs:
            history.epoch.append(past["epoch"])
            for name, value in past["logs"].items():
                history.history.setdefault(name, []).append(value)
        return history

    def restore(self, model) -> None:
        """Restores the state after the last epoch in a model just built."""
        if not self.epochs:
            return
        with np.load(self._folder / self._content["state"]) as arrays:
            for index, variable in enumerate(_variables(model)):
                variable.assign(arrays[str(index)])

    def on_train_begin(self, logs=None):
        # `on_train_begin` has reset the other callbacks.
        for past in self.epochs:
            for callback in self._deciders:
                callback.on_epoch_end(past["epoch"], dict(past["logs"]))
        self._mark()

    def on_epoch_end(self, epoch, logs=None):
        model = self.model
        finished = (
            bool(model.stop_training) or epoch + 1 >= self.params["epochs"]
        )
        numbers = {name: float(value) for name, value in (logs or {}).items()}
        self.epochs.append(
            {"epoch": epoch, "logs": numbers, **self._cost(model)}
        )
        state = None if finished else self._write_state(epoch, model)
        self._content.update(
            finished=finished,
            stopped_early=bool(model.stop_training),
            state=state,
        )
        write_json(self._folder / FILE, self._content)
        for path in self._folder.glob("state-*"):
            if path.name != state:
                path.unlink()
        self._mark()

    def _mark(self):
        self._since = time.perf_counter()
        self._compiled_before = self._compiled()

    def _cost(self, model) -> dict:
        return {
            "seconds": time.perf_counter() - self._since,
            "compile_seconds": self._compiled() - self._compiled_before,
            "num_devices": self._devices(model),
            # An epoch that compiles says little about throughput.
            "is_steady": not self._throughput.history[-1]["compile_seconds"],
        }

    def _write_state(self, epoch, model) -> str:
        name = f"state-{epoch}.npz"
        arrays: dict[str, Any] = {
            str(index): _as_numpy(variable)
            for index, variable in enumerate(_variables(model))
        }
        unfinished = self._folder / f"state-{epoch}.unfinished.npz"
        np.savez(unfinished, **arrays)  # type: ignore[arg-type]
        os.replace(unfinished, self._folder / name)
        return name


def _variables(model) -> list:
    """All that `fit` changes: weights, random states, the optimizer's."""
    return [*model.variables, *model.optimizer.variables]


def _as_numpy(variable) -> np.ndarray:
    array = ops.convert_to_numpy(variable.value)
    # NumPy's file format does not know bfloat16.
    return array if array.dtype.kind in "biuf" else array.astype("float32")


class EpochHooks(keras.callbacks.Callback):
    """Calls a tuner's hooks at the beginning and end of each epoch.

    KerasTuner's own callback has hooks on batches, too, which do nothing and
    make Keras wait for the device after every step.
    """

    def __init__(self, tuner, trial):
        super().__init__()
        self.tuner = tuner
        self.trial = trial

    def on_epoch_begin(self, epoch, logs=None):
        self.tuner.on_epoch_begin(self.trial, self.model, epoch, logs=logs)

    def on_epoch_end(self, epoch, logs=None):
        self.tuner.on_epoch_end(self.trial, self.model, epoch, logs=logs)
