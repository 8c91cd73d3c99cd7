"""Saves over a model, and is killed at one moment or another.

Usage: killed_save.py MODEL.keras half_written|before_renaming
"""

import os
import signal
import sys

path, moment = sys.argv[1:]

import keras
import numpy as np

import keras_dp_retrieval  # noqa: F401, makes the classes known.

model = keras.saving.load_model(path)
model.candidate_tower.set_weights(
    [weight + 1 for weight in model.candidate_tower.get_weights()]
)


def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


if moment == "half_written":
    np.savez = die  # The weights are written after the ids.
else:
    os.replace = die
model.save(path)
