"""Has `fit_recipe` choose between towers, and writes down what came out.

Usage: recipe_tiny.py OUTPUT.npz PORT NUM_PROCESSES PROCESS_ID DEVICES_EACH
"""

import os
import pathlib
import sys

output, port, num_processes, process_id, devices_each = sys.argv[1:]
os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + f" --xla_force_host_platform_device_count={devices_each}"
)

import keras
import numpy as np

if int(num_processes) > 1:
    keras.distribution.initialize(
        f"localhost:{port}", int(num_processes), int(process_id)
    )

import keras_dp_retrieval as kdr

# The repository, whose benchmarks are not installed.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[2]))
from benchmarks.ordered_data import ordered_data

kdr.data_parallel()
data, *_ = ordered_data(
    "bigrams", 0, num_users=120, num_groups=4, group_size=8, length=14
)
model = kdr.fit_recipe(
    data,
    temperature=0.13,
    popularity_weight=0.0,
    embedding_dimension=8,
    item_dropout=0.0,
    query_dropout=0.0,
)
ids, scores = model.recommend(histories=[[1, 9, 17], [9, 1]], k=5)
np.savez(output, ids=ids, scores=scores, tower=type(model.user_tower).__name__)
