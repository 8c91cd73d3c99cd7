"""NaN and infinity are refused, wherever they come from."""

import warnings

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval import cli
from keras_dp_retrieval.cli import inputs
from keras_dp_retrieval.training.finite import all_finite
from tests.test_model import compiled_model, interactions

NAN, INF = float("nan"), float("inf")


def diverging_model():
    """Its first step goes beyond float32."""
    model = kdr.TwoTowerRetrieval(30, 20, 4, objective="rating")
    model.compile(keras.optimizers.SGD(1e30))
    return model


def diverged_model():
    model = diverging_model()
    with pytest.warns(UserWarning, match="end of epoch 1: a loss of"):
        model.fit(*interactions(40), epochs=2, verbose=0, non_finite="warn")
    return model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_finite_is_all_but_nan_and_infinity(dtype):
    finite = [0.0, -0.0, 6e4, -6e4, 1e-8]
    if dtype != "float16":  # Their sum is not finite.
        finite += [3e38, 3e38, 1e-45]
    tensors = [
        keras.ops.convert_to_tensor(np.array(values, "float32"), dtype)
        for values in (finite, [], [NAN], [1, INF], [-INF, INF, 0], [INF] * 9)
    ]
    found = all_finite(tensors)
    assert found == [True, True, False, False, False, False]


# Training


def test_a_training_that_diverges_ends_with_its_epoch():
    seen = []
    callback = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(epoch)
    )
    model = diverging_model()
    with pytest.raises(
        FloatingPointError,
        match=r"(?s)end of epoch 1: a loss of .* in the weights .*embeddings. "
        r"Usually the learning rate is too high",
    ):
        model.fit(*interactions(40), epochs=3, verbose=0, callbacks=[callback])
    assert seen == []  # What keeps the best weights never sees these.


def test_finite_loss_and_weights_that_are_not():
    # The loss of the only step is that of the weights before it.
    model = diverging_model()
    x, y = interactions(8)
    with pytest.raises(FloatingPointError, match=r"1: NaN or inf.* in the wei"):
        model.fit(x, {**y, "rating": y["rating"] + 1e12}, verbose=0)


def test_a_callback_list_of_the_user_is_watched_too():
    model = diverging_model()
    callbacks = keras.callbacks.CallbackList(
        [], add_history=True, model=model, epochs=2, steps=2
    )
    before = list(callbacks.callbacks)
    with pytest.raises(FloatingPointError, match="end of epoch 1"):
        model.fit(*interactions(40), epochs=2, verbose=0, callbacks=callbacks)
    assert callbacks.callbacks == before


def test_training_may_go_on_with_one_warning():
    model = diverging_model()
    with pytest.warns(UserWarning, match="finite numbers") as caught:
        history = model.fit(
            *interactions(40), epochs=4, verbose=0, non_finite="warn"
        )
    ours = [w for w in caught if "finite numbers" in str(w.message)]
    assert len(ours) == 1
    assert len(history.history["loss"]) == 4
    with pytest.raises(ValueError, match="`non_finite` must be one of 'raise'"):
        model.fit(*interactions(4), verbose=0, non_finite="ignore")


@pytest.mark.parametrize("rate", [NAN, INF])
def test_a_learning_rate_that_is_no_number_never_trains(rate):
    model = compiled_model()
    model.build((None,))
    before = model.get_weights()
    model.compile(keras.optimizers.Adagrad(rate))
    with pytest.raises(FloatingPointError, match=f"a learning rate of {rate}"):
        model.fit(*interactions(10), verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_epoch_in_which_a_schedule_leaves_the_numbers_is_the_last():
    schedule = keras.callbacks.LearningRateScheduler(
        lambda epoch: NAN if epoch == 1 else 0.1
    )
    model = compiled_model()
    with pytest.raises(FloatingPointError, match="end of epoch 2"):
        model.fit(*interactions(9), epochs=5, verbose=0, callbacks=[schedule])


@pytest.mark.parametrize("num_devices", [1, 4])
def test_nothing_is_said_of_a_training_that_goes_well(on_devices, num_devices):
    on_devices(num_devices)
    model = compiled_model(steps_per_execution=2)
    model.fit(*interactions(50), epochs=2, verbose=0)


# Where values come in


@pytest.mark.parametrize("bad", [NAN, INF, -INF, -1.0, 1e39])
@pytest.mark.parametrize("call", ["fit", "evaluate", "train_on_batch"])
def test_a_bad_weight_is_refused_before_anything_is_trained(call, bad):
    x, y = interactions(70)
    model = compiled_model(objective="rating")
    model(x)
    before = model.get_weights()
    weights = np.ones(70)
    weights[-1] = bad  # In the last of three batches.
    with pytest.raises(ValueError, match="must be finite and not negative"):
        getattr(model, call)(x, y, sample_weight=weights)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_bad_weight_is_refused_where_data_comes_in_batches():
    import tensorflow as tf

    x, y = interactions(8)
    model = compiled_model(steps_per_execution=2)
    rows = tf.data.Dataset.from_tensor_slices((x, y, np.full(8, -1.0)))
    with pytest.raises(ValueError, match=r"not negative. Received: -1.0, "):
        model.fit(rows.batch(4), verbose=0)


def test_a_bad_row_of_an_array_is_refused_before_anything_is_trained():
    x, y = interactions(70)
    model = compiled_model(objective="rating")
    model(x)
    before = model.get_weights()
    y["rating"][-1] = 1e19
    with pytest.raises(ValueError, match=r"at most 1e\+15 .* 1 of 70 that"):
        model.fit(x, y, batch_size=32, shuffle=False, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


# Afterwards


def test_what_diverged_is_not_ranked_and_not_saved_without_a_word(tmp_path):
    model = diverged_model()
    says = "user vectors must be finite .* learning rate is too high"
    with pytest.raises(ValueError, match=says):
        model.recommend([1, 2], k=3)
    with pytest.raises(ValueError, match=r"must be finite.*lower learning ra"):
        model.build_index()
    with pytest.warns(UserWarning, match="not finite: .*embeddings"):
        model.save(tmp_path / "m.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        compiled_model().save(tmp_path / "m.keras")


def test_what_diverged_is_not_evaluated():
    data = kdr.RetrievalDataset.from_synthetic(30, 20, 300)
    model = kdr.TwoTowerRetrieval.for_dataset(data, 4)
    kdr.evaluate(model, data, ks=(5,))
    table = model.user_tower
    table.set_weights([np.full(table.get_weights()[0].shape, NAN)])
    with pytest.raises(ValueError, match="user vectors must be finite"):
        kdr.evaluate(model, data, ks=(5,))
    with pytest.raises(ValueError, match="user vectors must be finite"):
        model.recommend(data.user_vocabulary.ids[:2])


def test_a_row_that_is_nobody_may_be_anything():
    model = compiled_model(objective="rating")
    model(np.array([1]))
    table = model.candidate_tower
    vectors = table.get_weights()[0]
    vectors[0] = NAN  # Row 0 was never trained, so it is never recommended.
    table.set_weights([vectors])
    assert (model.recommend([1], k=5)[0] > 0).all()


# The command line


def test_a_command_that_diverges_fails_and_saves_nothing(
    monkeypatch, tmp_path, capsys
):
    data = kdr.RetrievalDataset.from_synthetic(30, 20, 300)
    monkeypatch.setattr(inputs, "load_data", lambda *_: data)
    path = tmp_path / "m.keras"
    arguments = ["train", "--objective", "rating", "--output", str(path)]
    assert cli.main([*arguments, "--learning-rate", "1e30"]) == 1
    assert "Training must stay with finite numbers" in capsys.readouterr().err
    assert not path.exists()
