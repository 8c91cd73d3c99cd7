"""Trains a tiny model and writes down what came out; one of N processes.

Usage: train_tiny.py OUTPUT.npz PORT NUM_PROCESSES PROCESS_ID DEVICES_EACH
"""

import sys

from joined import join

output, *place = sys.argv[1:]
join(*place)

import keras
import numpy as np

import keras_dp_retrieval as kdr

keras.utils.set_random_seed(1)
kdr.data_parallel()
rng = np.random.default_rng(0)
NUM_ROWS = 101  # A prime: no number of devices divides it.
x = rng.integers(1, 50, NUM_ROWS)
y = {
    "movie_id": rng.integers(1, 40, NUM_ROWS),
    "rating": rng.random(NUM_ROWS).astype("float32"),
}

results = {}
for objective in ("rating", "full_softmax", "in_batch_softmax"):
    model = kdr.TwoTowerRetrieval(50, 40, 8, objective=objective)
    model.compile(keras.optimizers.Adagrad(0.1), steps_per_execution=2)
    history = model.fit(
        x, y, batch_size=24, epochs=3, verbose=0, validation_data=(x, y)
    ).history
    results[f"{objective}/loss"] = history["loss"]
    results[f"{objective}/val_loss"] = history["val_loss"]
    results[f"{objective}/evaluate"] = model.evaluate(
        x, y, batch_size=24, verbose=0
    )
    results[f"{objective}/predict"] = model.predict(x[:7], verbose=0)[
        "predictions"
    ]
    ids, scores = model.recommend([1, 2, 3], k=5)
    results[f"{objective}/ids"] = ids
    results[f"{objective}/scores"] = scores
    model.build_index()
    ids, scores = model.recommend([1, 2, 3], k=5)
    results[f"{objective}/ids_in_index"] = ids
    results[f"{objective}/scores_in_index"] = scores
    results[f"{objective}/users"] = model.encode_users(np.arange(50))
np.savez(output, **results)
