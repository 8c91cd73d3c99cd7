"""Saves over a model, and is killed at one moment or another.

Usage: killed_save.py MODEL.keras half_written|before_renaming|from_outside
"""

import os
import signal
import sys

path, moment = sys.argv[1:]

import keras
import numpy as np

import keras_dp_retrieval  # noqa: F401, makes the classes known.

model = keras.saving.load_model(path)


def change():
    weights = model.candidate_tower.get_weights()
    model.candidate_tower.set_weights([weight + 1 for weight in weights])


change()


def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


if moment == "from_outside":
    print("saving", flush=True)
    while True:
        model.save(path)
        change()
if moment == "half_written":
    np.savez = die  # The weights are written after the ids.
else:
    os.replace = die
model.save(path)
