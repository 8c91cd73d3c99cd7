"""What a run leaves behind: its record (JSON lines) and TensorBoard scalars."""

import time

import keras

from keras_dp_retrieval import distribution, report
from keras_dp_retrieval._version import __version__
from keras_dp_retrieval.callbacks.event_file import (
    TensorBoardFile,
    tensorboard_scalars,
)


class RunOutput:
    """Writes the record and the scalars of one `fit` into a folder.

    Args:
        log_dir: The folder. With None, nothing is written.
    """

    def __init__(self, log_dir: str | None):
        self._log_dir = log_dir
        self._tensorboard = TensorBoardFile(log_dir or "")

    def add(self, kind: str, line: dict) -> None:
        """Appends a line to the run record."""
        if self._log_dir is not None:
            report.append_line(self._log_dir, {"kind": kind, **line})

    def add_epoch(self, record: dict) -> None:
        """Appends an epoch to the run record and to the scalars."""
        self.add("epoch", record)
        if self._log_dir is not None:
            scalars = tensorboard_scalars(record)
            self._tensorboard.add(scalars, record["epoch"])


def run_header(first_epoch: int, model_name: str) -> dict:
    """What a run record says of the run: where and with what it began."""
    return {
        "first_epoch": first_epoch,
        "started": time.time(),
        "backend": keras.backend.backend(),
        "processes": distribution.process_count(),
        "versions": _versions(),
        "model": model_name,
    }


def memory_in_use() -> dict:
    """Bytes in use by device name, as far as the backend tells."""
    if keras.backend.backend() != "jax":
        return {}
    from keras_dp_retrieval._jax import devices

    return devices.memory_in_use()


def _versions() -> dict:
    versions = {"keras_dp_retrieval": __version__, "keras": keras.__version__}
    if keras.backend.backend() == "jax":
        from keras_dp_retrieval._jax import devices

        versions["jax"] = devices.jax_version()
    return versions
