"""Fits on data of which each process has its own idea; prints what it says.

Usage: fit_unlike.py PORT NUM_PROCESSES PROCESS_ID NUM_ROWS SEED
"""

import os
import sys

port, num_processes, process_id, num_rows, seed = map(int, sys.argv[1:])
os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"

import keras
import numpy as np

keras.distribution.initialize(f"localhost:{port}", num_processes, process_id)

import keras_dp_retrieval as kdr

kdr.data_parallel()
rng = np.random.default_rng(seed)
x = rng.integers(1, 50, num_rows)
y = {"movie_id": rng.integers(1, 40, num_rows)}
model = kdr.TwoTowerRetrieval(50, 40, 8)
model.compile("sgd")
try:
    model.fit(x, y, batch_size=100, shuffle=False, verbose=0)
    print("trained")
except ValueError as error:
    print(f"refused: {error}")
