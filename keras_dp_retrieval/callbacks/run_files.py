"""Files of a run: `run.jsonl` and TensorBoard's event file.

Files are opened, appended to and closed again, so a callback that is copied
or dropped in the middle of a run loses nothing.
"""

import json
import os
import socket
import time
import warnings

RUN_RECORD = "run.jsonl"


def append_line(folder: str, content: dict) -> None:
    """Adds one JSON object to the run record."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, RUN_RECORD)
    # NaN is no JSON, and no measurement of ours.
    line = json.dumps(content, allow_nan=False) + "\n"
    if _is_cut_off(path):
        line = "\n" + line
    with open(path, "a", encoding="utf-8") as file:
        file.write(line)


def _is_cut_off(path: str) -> bool:
    """Whether the file's last line was left unfinished by a killed run."""
    if not os.path.exists(path) or not os.path.getsize(path):
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


class TensorBoardFile:
    """Scalars for TensorBoard, in its own file format.

    Uses the `tensorboard` package without `tensorflow`, whose import would
    take seconds.
    """

    def __init__(self, folder: str):
        host = socket.gethostname()
        name = f"events.out.tfevents.{int(time.time())}.{host}.{os.getpid()}"
        self._path = os.path.join(folder, name + ".keras_dp_retrieval")
        self._works = True

    def add(self, scalars: dict[str, float], step: int) -> None:
        """Appends the scalars of one step (here: epoch)."""
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            self._say_missing()
            return
        values = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in scalars.items()
        ]
        now = time.time()
        events = [
            Event(wall_time=now, step=step, summary=Summary(value=values))
        ]
        if not os.path.exists(self._path):
            events.insert(0, Event(wall_time=now, file_version="brain.Event:2"))
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        with open(self._path, "ab") as file:
            writer = RecordWriter(file)
            for event in events:
                writer.write(event.SerializeToString())

    def _say_missing(self):
        if self._works:
            self._works = False
            warnings.warn(
                "TensorBoard is not installed, so `log_dir` gets the run "
                "record alone. Install it with: pip install "
                "'keras-dp-retrieval[plots]'.",
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
