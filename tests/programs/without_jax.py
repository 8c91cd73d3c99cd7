"""Loads, retrieves and evaluates without JAX; fails where that goes wrong."""

import pathlib
import re
import tempfile
import warnings

import keras
import numpy as np

import keras_dp_retrieval as kdr
import keras_dp_retrieval.towers.history_sums

warnings.simplefilter("ignore")
backend = keras.backend.backend()
data = kdr.RetrievalDataset.from_synthetic(30, 20, 300)
model = kdr.TwoTowerRetrieval.for_dataset(data, 4, objective="rating")
model.compile("adam")
ids = data.user_vocabulary.ids[:7]

# What trains says in one sentence what it needs.
x, y = np.arange(1, 8), {"candidate_id": np.arange(1, 8), "rating": np.ones(7)}
for name, call in {
    "fit": lambda: model.fit(x, y),
    "train_on_batch": lambda: model.train_on_batch(x, y),
    "fit_recipe": lambda: kdr.fit_recipe(data),
}.items():
    try:
        call()
        raise AssertionError(f"{name} trained")
    except RuntimeError as error:
        says = rf"`{name}` needs Keras on the JAX .*KERAS_BACKEND=jax before"
        assert re.search(says, str(error)), error

# Vectors by hand, and everything else from them.
users, candidates = model.encode_users(ids), model.encode_candidates()
scores = users @ candidates.T
best = model.retrievable_ids()[np.argsort(-scores, axis=1)[:, :3]]
found, _ = model.recommend(ids, k=3, exclude_seen=False)
np.testing.assert_array_equal(found, best)
model.build_index()
found, _ = model.recommend(ids, k=3, exclude_seen=False)
np.testing.assert_array_equal(found, best)
asked = [ids[0], 10**6, ids[1]]
found, _, info = model.recommend(
    asked, k=3, exclude_seen=False, unknown="popular", return_info=True
)
np.testing.assert_array_equal(found[[0, 2]], best[:2])
np.testing.assert_array_equal(found[1], model.retrievable_ids()[:3])
assert info["source"].tolist() == ["model", "popular", "model"]
predicted = model.predict(x, batch_size=4, verbose=0)["predictions"]
np.testing.assert_array_equal(
    data.candidate_vocabulary.raw_ids(predicted)[:, :3], best
)

# Long histories are summed in pieces.
tower = kdr.IdHistoryTower(data.num_users, data.num_candidates, 4)
reader = kdr.TwoTowerRetrieval.for_dataset(data, 4, user_tower=tower)
padded = reader.encode_users(ids)
sums = keras_dp_retrieval.towers.history_sums
sums.MOST_COUNTS, sums.PIECE = 0, 4 * 7 * 3
assert sums.way_to_sum(tower.items, 7, reader.histories.max_length) == "pieces"
np.testing.assert_allclose(reader.encode_users(ids), padded, rtol=1e-4)
reader.compile("adam")
found = reader.predict(x[:4], verbose=0)["user_embeddings"]
expected = keras.ops.convert_to_numpy(reader.user_vectors(x[:4]))
np.testing.assert_allclose(found, expected, rtol=1e-4)

# The loss: rows of weight 0 and padding count nowhere.
weights = np.array([1, 1, 0, 1, 1, 1, 1.0])
pairs = np.sum(
    users
    * candidates[
        np.searchsorted(
            model.retrievable_ids(), data.candidate_vocabulary.raw_ids(x)
        )
    ],
    axis=1,
)
expected = np.sum(weights * (pairs - 1) ** 2) / 6
loss = model.evaluate(x, y, sample_weight=weights, batch_size=4, verbose=0)
np.testing.assert_allclose(loss, expected, rtol=1e-4)
loss = model.test_on_batch(x, y, weights)
np.testing.assert_allclose(loss, expected, rtol=1e-4)

# Metrics of the whole catalogue, as a call and as a callback.
metrics = kdr.evaluate(model, data, split="validation", ks=(3,))
callback = kdr.RetrievalMetrics(data, ks=(3,))
callback.set_model(model)
callback.set_params({"epochs": 1})
logs = {}
callback.on_epoch_end(0, logs)
assert logs["val_ndcg_at_3"] == metrics["ndcg_at_3"], (logs, metrics)
assert 0 <= metrics["ndcg_at_3"] <= 1

# A file from here, and one that was trained on JAX.
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "m.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    found, _ = loaded.recommend(ids, k=3, exclude_seen=False)
    np.testing.assert_array_equal(found, best)
trained = pathlib.Path(__file__).parents[1] / "fixtures" / "format_2.keras"
loaded = kdr.TwoTowerRetrieval.load(trained)
known = loaded.user_vocabulary.ids[:2]
assert loaded.recommend(known, k=2)[0].shape == (2, 2)
print(f"All well on {backend}.")
