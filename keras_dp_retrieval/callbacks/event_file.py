"""TensorBoard's event files, written without TensorFlow.

The `tensorboard` package alone knows the format; importing `tensorflow` would
take seconds.
"""

import os
import socket
import time
import warnings

from keras_dp_retrieval.warning_categories import RetrievalWarning


def append_events(path: str | os.PathLike, summaries: list) -> None:
    """Appends summaries to an event file, which is closed again.

    Args:
        path: The file. Its name must contain `tfevents`; folders that are not
            there are made.
        summaries: List of `(step, summary)`; a summary is TensorBoard's
            protocol buffer, or a dict of scalars by tag.

    Raises:
        ImportError: If TensorBoard is not installed.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    now = time.time()
    events = []
    if not os.path.exists(path):
        events.append(Event(wall_time=now, file_version="brain.Event:2"))
    for step, summary in summaries:
        if isinstance(summary, dict):
            values = [
                Summary.Value(tag=tag, simple_value=value)
                for tag, value in summary.items()
            ]
            summary = Summary(value=values)
        events.append(Event(wall_time=now, step=step, summary=summary))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "ab") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())


class TensorBoardFile:
    """The event file of one `fit` in a folder of TensorBoard's."""

    def __init__(self, folder: str):
        host = socket.gethostname()
        name = f"events.out.tfevents.{int(time.time())}.{host}.{os.getpid()}"
        self._path = os.path.join(folder, name + ".keras_dp_retrieval")
        self._warned = False

    def add(self, scalars: dict[str, float], step: int) -> None:
        """Appends the scalars of one step (here: epoch)."""
        try:
            append_events(self._path, [(step, scalars)])
        except ImportError:
            self._warn_once()

    def _warn_once(self):
        if self._warned:
            return
        self._warned = True
        warnings.warn(
            "TensorBoard is not installed, so `log_dir` gets the run "
            "record alone. Install it with: pip install "
            "'keras-dp-retrieval[plots]'.",
            RetrievalWarning,
            stacklevel=2,
        )


def tensorboard_scalars(record: dict) -> dict[str, float]:
    """An epoch's figures under TensorBoard's tags, without unknown ones."""
    scalars = {
        f"throughput/{name}": record[name]
        for name in (
            "examples_per_second",
            "examples_per_second_per_device",
            "scaling_efficiency",
        )
    }
    for name in (
        "step_seconds_median",
        "step_seconds_p95",
        "training_seconds",
        "compile_seconds",
        "input_wait_seconds",
        "validation_seconds",
        "callbacks_seconds",
    ):
        scalars[f"time/{name}"] = record[name]
    for device in record["devices"]:
        for name in (
            "examples_per_second",
            "finish_lag_seconds",
            "memory_bytes",
        ):
            tag = f"device_{name}/{device['name'].replace(':', '_')}"
            scalars[tag] = device[name]
    for process in record["processes"] if len(record["processes"]) > 1 else []:
        for name in ("step_seconds_median", "input_wait_seconds"):
            scalars[f"process_{name}/{process['process']}"] = process[name]
    return {tag: value for tag, value in scalars.items() if value is not None}
