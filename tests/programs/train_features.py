"""Trains towers of features and writes down what came out; one of N processes.

Usage: train_features.py OUTPUT.npz PORT NUM_PROCESSES PROCESS_ID DEVICES_EACH
"""

import sys

from joined import join

output, *place = sys.argv[1:]
join(*place)

import keras
import numpy as np

import keras_dp_retrieval as kdr

kdr.data_parallel()
rng = np.random.default_rng(0)
NUM_ROWS = 203  # A prime times 7: 4 does not divide it.
data = kdr.RetrievalDataset(
    rng.integers(0, 40, NUM_ROWS),
    rng.integers(0, 30, NUM_ROWS),
    rng.integers(1, 6, NUM_ROWS),
    batch_size=32,
    validation_fraction=0,
    user_features={
        "user_id": np.arange(44),
        "group": [f"g{user % 3}" for user in range(44)],
        "age": np.linspace(20, 60, 44),
    },
    candidate_features={
        "item_id": np.arange(33),
        "tags": [[f"t{n % 3}", f"t{n % 5}"][: n % 3] for n in range(33)],
        "price": np.linspace(1, 2, 33) ** 3,
    },
)
OBJECTIVES = {
    "rating": lambda: "rating",
    "full": lambda: kdr.FullSoftmax(0.2),
    "chunked": lambda: kdr.FullSoftmax(0.2, chunk_size=7),
    "in_batch": lambda: kdr.InBatchSoftmax(0.2),
}


def trained(objective, updates):
    keras.utils.set_random_seed(1)
    data.start_at_epoch(0)
    history = kdr.RecencyTower(data.num_candidates, 8, max_length=4, seed=2)
    model = kdr.TwoTowerRetrieval.for_dataset(
        data,
        8,
        objective=OBJECTIVES[objective](),
        embedding_updates=updates,
        user_tower=kdr.FeatureTower(
            data.user_features, 8, history=history, hidden=(4,), seed=3
        ),
        candidate_tower=kdr.FeatureTower(data.candidate_features, 8, seed=4),
    )
    model.compile(
        keras.optimizers.Adagrad(0.1),
        steps_per_execution=3 if updates == "dense" else 1,
    )
    return model, model.fit(data.train, epochs=2, verbose=0).history["loss"]


found = {}
# `tests/test_features.py` has all pairs, in one process.
for objective, updates in zip(
    OBJECTIVES, ("dense", "dense", "row_sparse", "row_sparse"), strict=True
):
    model, losses = trained(objective, updates)
    found[f"{objective} loss"] = losses
    found[f"{objective} users"] = model.encode_users(np.arange(44))
    found[f"{objective} candidates"] = model.encode_candidates()
lists, scores = model.recommend(np.arange(44), k=9)
found |= {
    "lists": lists,
    "scores": scores,
    "asked": model.recommend(user_features={"group": ["g1"], "age": [33]})[0],
    "metrics": list(kdr.evaluate(model, data).values()),
}
np.savez(output, **found)
