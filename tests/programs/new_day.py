"""Goes on with a new day, and writes down what came out; one of N processes.

Usage: new_day.py OUTPUT.npz PORT NUM_PROCESSES PROCESS_ID DEVICES_EACH [SEED]
"""

import sys

from joined import join

output, *place, seed = [*sys.argv[1:], "0"][:6]
join(*place)

import keras
import numpy as np

import keras_dp_retrieval as kdr


def day(number, most, seed=0):
    rng = np.random.default_rng([number, seed])
    return kdr.RetrievalDataset.from_interactions(
        rng.integers(0, most, 150),
        rng.integers(0, most + 3, 150),
        timestamps=150 * number + np.arange(150),
        batch_size=24,
    )


keras.utils.set_random_seed(1)
kdr.data_parallel()
monday = day(1, 30)
model = kdr.TwoTowerRetrieval.for_dataset(monday, 8, objective="full_softmax")
model.compile(keras.optimizers.Adagrad(0.1))
model.fit(monday.train, verbose=0)
try:
    data = model.add_interactions(day(2, 40, int(seed)))
except ValueError as error:
    print(f"refused with {model.num_users} users: {error}", flush=True)
    sys.exit()
loss = model.fit(data.train, epochs=2, verbose=0).history["loss"]
ids, scores = model.recommend(model.user_vocabulary.ids, k=5)
metrics = kdr.evaluate(model, data)
np.savez(
    output,
    loss=loss,
    ids=ids,
    scores=scores,
    metrics=[metrics[name] for name in sorted(metrics)],
    seen=model.histories.candidate_rows,
)
