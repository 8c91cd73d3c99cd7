"""Fits while each process has its own idea of what; prints what it says.

Usage: fit_unlike.py WHAT, where `launch` or the like says which process this
is. WHAT is what process 1 has otherwise, or `nothing`.
"""

import os
import sys

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np

import keras_dp_retrieval as kdr

process = kdr.initialize_processes()
other = sys.argv[1] if process.index == 1 else "nothing"

if sys.argv[1] == "seed":
    keras.utils.set_random_seed(process.index)
kdr.data_parallel()
num_rows = {"rows": 700, "last batch": 950}.get(other, 1000)
rng = np.random.default_rng(1 if other == "contents" else 0)
users, movies = rng.integers(1, 50, num_rows), rng.integers(1, 40, num_rows)
if other == "order":
    users, movies = users[::-1].copy(), movies[::-1].copy()
try:
    if sys.argv[1] in ("vocabulary", "features"):
        signs = ["a", "b"] if other == "features" else ["a", "c"]
        data = kdr.RetrievalDataset.from_interactions(
            users + 100 * (other == "vocabulary"),
            movies,
            user_features={"user_id": range(1, 50), "sign": (signs * 25)[:49]}
            if sys.argv[1] == "features"
            else None,
        )
        model = kdr.TwoTowerRetrieval.for_dataset(data, 8)
        x, y = data.train, None
    else:
        x, y = users, {"movie_id": movies}
        model = kdr.TwoTowerRetrieval(50, 40, 8)
    rate = 0.2 if other == "learning rate" else 0.1
    steps = 2 if other == "steps" else 1
    model.compile(keras.optimizers.SGD(rate), steps_per_execution=steps)
    epochs = 2 if other == "epochs" else 1
    batch_size = None if y is None else 100
    model.fit(
        x, y, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0
    )
    print("trained")
except ValueError as error:
    print(f"refused: {error}")
