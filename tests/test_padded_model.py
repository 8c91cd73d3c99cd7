"""What Keras' own entry points do on any model, number of rows and devices."""

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from tests.test_model import compiled_model, interactions, largest_difference

# Compiling


def uncompiled_model():
    return kdr.TwoTowerRetrieval(30, 20, 8)


def test_an_uncompiled_model_predicts_and_says_compile_otherwise(tmp_path):
    x, y = interactions(5)
    compiled_model().save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras", compile=False)
    for model in (uncompiled_model(), loaded):
        assert model.predict(x, verbose=0)["predictions"].shape == (5, 10)
        assert model.predict_on_batch(x)["predictions"].shape == (5, 10)
        for call in ("fit", "evaluate", "train_on_batch", "test_on_batch"):
            with pytest.raises(ValueError, match=r"must call `compile\(\)`"):
                getattr(model, call)(x, y)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "mse"}, r"Received: loss='mse'.* with `objective=`"),
        ({"loss_weights": [2.0]}, r"loss_weights=\[2.0\].* `objective=`"),
        ({"metrics": ["mae"]}, r"metrics=\['mae'\].* `RetrievalMetrics\(data"),
        ({"weighted_metrics": ["mae"]}, r"weighted_metrics=.*RetrievalMetr"),
        ({"steps_per_execution": 0}, "`steps_per_execution` must be a whole"),
    ],
)
def test_what_compile_has_no_use_for_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        uncompiled_model().compile("adam", **arguments)


def test_a_file_that_was_compiled_with_a_loss_still_loads(tmp_path):
    model = compiled_model()
    x, y = interactions(6)
    model.fit(x, y, verbose=0)
    # Earlier versions took a loss and metrics, and saved them.
    rate = keras.optimizers.SGD(0.25)
    keras.Model.compile(model, rate, loss="mse", metrics=["mae"])
    model.save(tmp_path / "m.keras")
    with pytest.warns(UserWarning, match="compiled with loss, metrics, which"):
        loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert float(loaded.optimizer.learning_rate) == 0.25
    loaded.fit(x, y, verbose=0)


# One batch


@pytest.mark.parametrize(
    ("num_devices", "steps_per_execution"),
    [
        (1, 1),
        (4, 3),
        pytest.param(1, 3, marks=pytest.mark.slow),
        pytest.param(4, 1, marks=pytest.mark.slow),
    ],
)
def test_calls_on_one_batch_do_what_the_whole_calls_do(
    on_devices, num_devices, steps_per_execution
):
    on_devices(num_devices)
    x, y = interactions(7)
    weights = np.array([1, 2, 1, 0, 1, 1, 0.5])
    options = {
        "objective": "rating",
        "steps_per_execution": steps_per_execution,
    }
    whole, batch = compiled_model(**options), compiled_model(**options)
    data = {"x": x, "y": y, "sample_weight": weights}
    for _ in range(2):
        expected = whole.fit(**data, batch_size=7, verbose=0).history["loss"]
        assert batch.train_on_batch(**data) == pytest.approx(expected[0], 1e-5)
    assert largest_difference(whole.get_weights(), batch.get_weights()) < 1e-6
    expected = whole.evaluate(**data, batch_size=7, verbose=0)
    assert batch.test_on_batch(**data) == pytest.approx(expected, 1e-5)
    logs = batch.test_on_batch(**data, return_dict=True)
    assert logs == {"loss": pytest.approx(expected, 1e-5)}
    expected = whole.predict(x, verbose=0)
    outputs = batch.predict_on_batch(x)
    np.testing.assert_array_equal(
        outputs["predictions"], expected["predictions"]
    )
    assert outputs["user_embeddings"].shape == (7, 8)


@pytest.mark.parametrize(
    "call", ["train_on_batch", "test_on_batch", "predict_on_batch"]
)
def test_one_bad_batch_is_refused_and_the_weights_survive(call):
    model = compiled_model(objective="rating")
    x, y = interactions(3)
    model.train_on_batch(x, y)
    before = model.get_weights()
    x[1] = 99
    data = (x,) if call == "predict_on_batch" else (x, y)
    with pytest.raises(ValueError, match=r"from 0 to 29 .* Received: 99"):
        getattr(model, call)(*data)
    nothing = {key: column[:0] for key, column in y.items()}
    with pytest.raises(ValueError, match="at least one row"):
        getattr(model, call)(*(x[:0], nothing)[: len(data)])
    assert largest_difference(before, model.get_weights()) == 0


# Weights of rows


def test_a_dict_of_sample_weights_must_be_of_one_mind():
    x, y = interactions(6)
    weights = np.array([1, 0, 2, 1, 1, 3])
    expected = compiled_model().evaluate(x, y, sample_weight=weights, verbose=0)
    for given in (
        {"movie_id": weights, "rating": weights},
        {"movie_id": weights},
        weights.tolist(),
        weights[:, None],
    ):
        loss = compiled_model().evaluate(x, y, sample_weight=given, verbose=0)
        assert loss == pytest.approx(expected, 1e-6)
    with pytest.raises(ValueError, match="dict of weights that differ between"):
        compiled_model().fit(
            x,
            y,
            sample_weight={"movie_id": weights, "rating": np.ones(6)},
            verbose=0,
        )
    with pytest.raises(ValueError, match="Received: 12 weights for 6 rows"):
        compiled_model().fit(
            x, {"movie_id": x % 19}, sample_weight=np.ones((6, 2)), verbose=0
        )


def test_the_loss_is_read_and_reset_as_keras_does_it(on_devices):
    on_devices(2)
    model = compiled_model()
    x, y = interactions(12)
    model.fit(x, y, batch_size=5, epochs=2, verbose=0)
    mean = keras.Model.get_metrics_result(model)["loss"]
    assert float(mean) > 0
    assert model.get_metrics_result() == {"loss": mean}
    model.reset_metrics()
    assert model.get_metrics_result() == {"loss": 0}
    tracker = model.loss_tracker
    assert [float(v.value) for v in tracker.variables] == [0, 0]
    # Elsewhere, they would have the step compiled anew.
    telemetry = kdr.DistributionAwareCallback()
    model.fit(x, y, batch_size=5, epochs=2, verbose=0, callbacks=[telemetry])
    compiled = [record["compiled_steps"] for record in telemetry.history]
    assert compiled == [[], []]


def test_class_weights_are_refused():
    x, y = interactions(6)
    with pytest.raises(ValueError, match="`class_weight` has no meaning here"):
        compiled_model().fit(x, y, class_weight={0: 1.0}, verbose=0)


# Sizes


def test_a_batch_larger_than_the_data_is_as_large_as_the_data(on_devices):
    on_devices(4)
    x, y = interactions(10)
    model = compiled_model()
    model.fit(x, y, batch_size=10**9, verbose=0)
    assert model.predict(x, batch_size=10**9, verbose=0)[
        "predictions"
    ].shape == (10, 10)


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_a_batch_size_that_is_none_is_refused(size):
    x, y = interactions(5)
    model = compiled_model()
    for call in ("fit", "evaluate"):
        with pytest.raises(ValueError, match="`batch_size` must be a whole"):
            getattr(model, call)(x, y, batch_size=size)
    with pytest.raises(ValueError, match="`batch_size` must be a whole"):
        model.predict(x, batch_size=size)
    with pytest.raises(ValueError, match="`batch_size` must be a whole"):
        model.fit(x, y, validation_data=(x, y), validation_batch_size=size)
