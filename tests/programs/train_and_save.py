"""Loads a model, continues training and saves it; one of N processes.

Usage: train_and_save.py MODEL.keras OUTPUT.keras PORT NUM_PROCESSES PROCESS_ID

Prints the losses, and what became of a save into a folder that is not there.
"""

import json
import os
import sys

path, output, port, num_processes, process_id = sys.argv[1:]
os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=2"
)

import keras
import numpy as np

keras.distribution.initialize(
    f"localhost:{port}", int(num_processes), int(process_id)
)

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
