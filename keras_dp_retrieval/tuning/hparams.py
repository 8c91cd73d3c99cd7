"""The trials in TensorBoard's HParams tab, without TensorFlow."""

import os
import pathlib

import numpy as np

from keras_dp_retrieval.callbacks.event_file import append_events
from keras_dp_retrieval.tuning import _keras_tuner


def write(folder: pathlib.Path, trial, objective: str) -> None:
    """Writes a finished trial's hyperparameters and objective.

    KerasTuner does so on the TensorFlow backend alone; elsewhere it lets all
    trials write into one folder. Here each trial's folder is one run. Does
    nothing where TensorBoard is not installed.

    Args:
        folder: The search's folder.
        trial: `TrialResult`.
        objective: str. Name of what is optimized.
    """
    try:
        from tensorboard.plugins.hparams import summary_v2
    except ImportError:
        return  # `DistributionAwareCallback` has warned of it.
    values = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in trial.chosen.items()
    }
    began = summary_v2.hparams_pb(values, trial_id=trial.trial_id)
    curve = enumerate({objective: value} for value in trial.curve)
    name = f"events.out.tfevents.0.{os.getpid()}.hparams"
    path = _keras_tuner.trial_folder(folder, trial.trial_id) / name
    path.unlink(missing_ok=True)
    append_events(path, [(0, began), *curve])
