"""Loads a model, continues training and saves it; one of N processes.

Usage: train_and_save.py MODEL.keras OUTPUT.keras PORT NUM_PROCESSES PROCESS_ID

Prints the losses, and what became of a save into a folder that is not there.
"""

import json
import os
import sys

from joined import join

path, output, *place = sys.argv[1:]
join(*place, devices_each=2)

import numpy as np

import keras_dp_retrieval as kdr

kdr.data_parallel()
model = kdr.TwoTowerRetrieval.load(path)
rng = np.random.default_rng(1)
x = rng.integers(1, 5, 37)
y = {
    "movie_id": rng.integers(1, 7, 37),
    "rating": rng.random(37).astype("float32"),
}
loss = model.fit(
    x, y, batch_size=8, epochs=2, shuffle=False, verbose=0
).history["loss"]
model.save(output)
assert os.path.exists(output)
try:
    model.save(os.path.join(output, "no_such_folder", "m.keras"))
    error = None
except Exception as caught:
    error = type(caught).__name__
print(json.dumps({"loss": loss, "error": error}))
