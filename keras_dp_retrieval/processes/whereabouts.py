"""How far the main thread of this process has come, for others to read."""

import os
import socket
import sys
import threading
import types

import keras


class _Place:
    """Where the main thread is.

    Attributes:
        count: int. Grows with everything that processes do together.
        where: str.
        together: bool. Whether it is in a loop that all processes take part
            in: they may wait for one that is behind.
    """

    count = 0
    where = "before its first `fit`"
    together = False


_place = _Place()


def moved(where: str, together: bool = True) -> None:
    """The main thread has come to `where`."""
    _place.where, _place.together = where, together
    _place.count += 1


def place() -> dict:
    """What `moved` was told last, and what runs where: a note for others."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "progress": _place.count,
        "where": _place.where,
        "together": _place.together,
        "running": _running(),
    }


def _running() -> str:
    """The line of Python that the main thread is at, in the user's code."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    innermost = frame
    while frame is not None and _is_library(frame):
        frame = frame.f_back
    found = frame or innermost
    if found is None:
        return "nothing"
    code = found.f_code
    name = os.path.basename(code.co_filename)
    return f"{code.co_name} ({name}:{found.f_lineno})"


def _is_library(frame: types.FrameType) -> bool:
    path = frame.f_code.co_filename
    return "site-packages" in path or path.startswith(
        (os.path.dirname(os.__file__), "<frozen")
    )


class SayWhere(keras.callbacks.Callback):
    """Says how far a loop over batches has come.

    No hook at the end of a step: Keras would wait for each.

    Args:
        doing: str. The method that runs the loop.
    """

    _only_measures = True

    def __init__(self, doing: str):
        super().__init__()
        self._doing = doing
        self._epoch = ""

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = f", epoch {epoch + 1}"
        moved(f"{self._doing}{self._epoch}, before its first step")

    def on_train_batch_begin(self, batch, logs=None):
        moved(f"{self._doing}{self._epoch}, step {batch + 1}")

    def on_test_batch_begin(self, batch, logs=None):
        inside = "validation" if self._doing == "fit" else self._doing
        moved(f"{inside}{self._epoch}, batch {batch + 1}")

    def on_predict_batch_begin(self, batch, logs=None):
        moved(f"{self._doing}, batch {batch + 1}")

    # What comes then, such as writing a file, a process may do alone.

    def on_train_end(self, logs=None):
        moved("behind `fit`", together=False)

    def on_test_end(self, logs=None):
        if self._doing != "fit":  # Else a validation inside.
            moved(f"behind `{self._doing}`", together=False)

    def on_predict_end(self, logs=None):
        moved(f"behind `{self._doing}`", together=False)
