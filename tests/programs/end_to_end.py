"""Trains, evaluates, saves, loads and recommends on two virtual devices.

A short program for `.ci/matrix`: what must hold on every set of versions.
"""

import os
import pathlib
import sys
import tempfile

os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import keras
import numpy as np

import keras_dp_retrieval as kdr


def train(data, steps_per_execution, **options):
    keras.utils.set_random_seed(0)
    data.start_at_epoch(0)
    model = kdr.TwoTowerRetrieval.for_dataset(data, 8, **options)
    model.compile(
        keras.optimizers.Adagrad(0.1), steps_per_execution=steps_per_execution
    )
    throughput = kdr.DistributionAwareCallback()
    history = model.fit(
        data.train,
        validation_data=data.validation,
        epochs=2,
        verbose=0,
        callbacks=[throughput, kdr.RetrievalMetrics(data, ks=(5,))],
    )
    examples = [epoch["examples"] for epoch in throughput.history]
    assert examples == [len(data.ratings("train"))] * 2, examples
    assert history.history["loss"][1] < history.history["loss"][0]
    return model, history.history["loss"]


def check_that_arrays_are_read_once(steps_per_execution):
    users = np.arange(1, 78) % 9
    candidates = np.arange(77) % 7
    model = kdr.TwoTowerRetrieval(9, 7, 4, objective="in_batch_softmax")
    model.compile("adagrad", steps_per_execution=steps_per_execution)
    model.fit(
        users,
        {"movie_id": candidates},
        batch_size=16,
        validation_data=(users, {"movie_id": candidates}),
        verbose=0,
    )
    counts = keras.ops.convert_to_numpy(model.candidate_counts.value)
    np.testing.assert_array_equal(counts, np.bincount(candidates))
    predicted = model.predict(users, batch_size=16, verbose=0)["predictions"]
    assert len(predicted) == len(users)


def main():
    assert len(kdr.data_parallel().device_mesh.devices.flatten()) == 2
    # No batch size divides by two devices, and 3 by no number of batches.
    data = kdr.RetrievalDataset.from_synthetic(90, 40, 1503, batch_size=101)
    for objective in ("rating", "full_softmax", "in_batch_softmax"):
        _, single = train(data, 1, objective=objective)
        model, fused = train(data, 3, objective=objective)
        np.testing.assert_allclose(single, fused, rtol=1e-5)
    train(data, 3, objective="in_batch_softmax", embedding_updates="row_sparse")
    for steps_per_execution in (1, 2):
        check_that_arrays_are_read_once(steps_per_execution)
    users = data.user_vocabulary.ids[:5]
    expected = model.recommend(users, k=5)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        model.save(path)
        loaded = keras.saving.load_model(path)
    np.testing.assert_array_equal(loaded.recommend(users, k=5)[0], expected[0])
    recipe = kdr.fit_recipe(data, epochs=1, embedding_dimension=8, tune=False)
    assert kdr.evaluate(recipe, data)["num_users"] > 0
    print("end to end: passed")


if __name__ == "__main__":
    main()
