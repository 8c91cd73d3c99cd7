"""The trials in TensorBoard's HParams tab, without TensorFlow."""

import os
import pathlib
import time

import numpy as np


def write(folder: pathlib.Path, trial, objective: str) -> None:
    """Writes a finished trial's hyperparameters and metrics, if it can.

    KerasTuner does so on the TensorFlow backend alone; elsewhere it lets all
    trials write into one folder. Here each trial's folder is one run.

    Args:
        folder: The search's folder.
        trial: `TrialResult`.
        objective: str. Name of what is optimized.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import summary_v2
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError:
        return  # `DistributionAwareCallback` has said so.
    values = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in trial.chosen.items()
    }
    began = summary_v2.hparams_pb(values, trial_id=trial.trial_id)
    now = time.time()
    events = [
        Event(wall_time=now, file_version="brain.Event:2"),
        Event(wall_time=now, summary=began),
    ]
    for step, value in enumerate(trial.curve):
        scalar = Summary.Value(tag=objective, simple_value=value)
        events.append(
            Event(wall_time=now, step=step, summary=Summary(value=[scalar]))
        )
    name = f"events.out.tfevents.0.{os.getpid()}.hparams"
    path = folder / f"trial_{trial.trial_id}" / name
    with open(path, "wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())
