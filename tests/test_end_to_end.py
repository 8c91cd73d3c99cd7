"""The tutorial's job on real MovieLens, beside the same in plain Keras."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from tests.plain_keras import PlainTwoTower, tutorial_pipeline

pytestmark = pytest.mark.realdata

EPOCHS = 2


@pytest.fixture
def tutorial_data(data_dir):
    return kdr.MovieLensRetrievalDataset(
        "100k", data_dir=data_dir / "tfds", split="tutorial"
    )


@pytest.fixture(scope="module")
def plain_data(data_dir):
    return tutorial_pipeline(data_dir / "tfds")


def fit(model, train, test, epochs=EPOCHS, **kwargs):
    model.compile(optimizer=keras.optimizers.Adagrad(0.2))
    return model.fit(
        train, validation_data=test, epochs=epochs, verbose=0, **kwargs
    )


def same_start(model, plain):
    plain.build((None,))
    model.build((None,))
    model.user_tower.set_weights(plain.users.get_weights())
    model.candidate_tower.set_weights(plain.movies.get_weights())


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [1, 8])
def test_losses_are_those_of_the_recipe_in_plain_keras(
    on_devices, tutorial_data, plain_data, num_devices
):
    on_devices(num_devices)
    plain = PlainTwoTower(944, 1683, 32)
    model = kdr.TwoTowerRetrieval.for_dataset(tutorial_data, objective="rating")
    assert (model.num_users, model.num_candidates) == (944, 1683)
    same_start(model, plain)
    expected = fit(plain, *plain_data).history
    got = fit(model, tutorial_data.train, tutorial_data.test).history
    assert expected["loss"][-1] < expected["loss"][0]
    np.testing.assert_allclose(got["loss"], expected["loss"], atol=1e-5)
    np.testing.assert_allclose(got["val_loss"], expected["val_loss"], atol=1e-5)


@pytest.mark.slow
def test_our_parts_and_plain_parts_plug_into_each_other(
    on_devices, tutorial_data, plain_data
):
    on_devices(2)
    throughput = kdr.DistributionAwareCallback()
    plain_train, plain_test = plain_data
    # A tutorial's pipeline into our model and callback ...
    model = kdr.TwoTowerRetrieval(944, 1683, objective="rating")
    fit(model, plain_train, plain_test, 1, callbacks=[throughput])
    assert throughput.history[0]["examples"] == 80_000
    # ... and our data and callback into a tutorial's model.
    plain = PlainTwoTower(944, 1683, 32)
    train, test = tutorial_data.train, tutorial_data.test
    logs = fit(plain, train, test, 1, callbacks=[throughput]).history
    assert throughput.history[0]["examples"] == 80_000
    per_device = logs["examples_per_second_per_device"][0]
    assert logs["examples_per_second"][0] == pytest.approx(2 * per_device)


@pytest.mark.slow
def test_fifty_epochs_end_near_the_published_losses(on_devices, tutorial_data):
    on_devices(2)
    keras.utils.set_random_seed(42)
    model = kdr.TwoTowerRetrieval.for_dataset(tutorial_data, objective="rating")
    logs = fit(
        model,
        tutorial_data.train,
        tutorial_data.test,
        epochs=50,
        validation_freq=5,
    ).history
    # Published from one start; starts move both by about 0.015.
    assert logs["loss"][-1] == pytest.approx(0.1544, abs=0.015)
    assert logs["val_loss"][-1] == pytest.approx(0.1586, abs=0.015)


@pytest.mark.slow
def test_saved_on_eight_devices_it_answers_the_same_in_a_new_process(
    on_devices, tutorial_data, tmp_path
):
    on_devices(8)
    model = kdr.TwoTowerRetrieval.for_dataset(tutorial_data, objective="rating")
    fit(model, tutorial_data.train, tutorial_data.test, epochs=1)
    model.save(tmp_path / "movies.keras")
    ids, scores = model.recommend([1, 2, 943], k=10)
    program = (
        "import sys, keras, numpy, keras_dp_retrieval;"
        "model = keras.saving.load_model(sys.argv[1]);"
        "ids, scores = model.recommend([1, 2, 943], k=10);"
        "numpy.savez(sys.argv[2], ids=ids, scores=scores)"
    )
    paths = [str(tmp_path / name) for name in ("movies.keras", "answer.npz")]
    subprocess.run([sys.executable, "-c", program, *paths], check=True)
    with np.load(paths[1]) as answer:
        np.testing.assert_array_equal(answer["ids"], ids)
        np.testing.assert_allclose(answer["scores"], scores, rtol=1e-6)
