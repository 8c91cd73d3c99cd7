"""The counts of candidates, and their sum, which no step adds up."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval._jax.counts import BatchCounts, sum_of
from keras_dp_retrieval.losses import ScoredBatch
from keras_dp_retrieval.losses.softmax import competing, log_share


def as_int(total):
    low, high = np.array(total).tolist()
    return low + high * 2**30


def sum_variable(model):
    (variable,) = model.derived_variables
    return as_int(variable.value)


def trained(objective="in_batch_softmax", **fit):
    keras.utils.set_random_seed(0)
    model = kdr.TwoTowerRetrieval(20, 30, 4, objective=objective)
    model.compile(keras.optimizers.Adagrad(0.1))
    rng = np.random.default_rng(0)
    x, y = rng.integers(1, 20, 37), {"movie_id": rng.integers(1, 30, 37)}
    model.fit(x, y, batch_size=8, verbose=0, **fit)
    return model, x, y


def test_a_batch_counts_what_exists_and_reads_what_was_before():
    counts = jnp.array([0, 5, 0, 1], "int32")
    rows = jnp.array([[1, 2], [2, -1], [3, 3], [9, 0]], "int32")
    weights = jnp.array([[1.0, 0.5], [2.0, 1.0], [0.0, 0.0], [1.0, 0.0]])

    @jax.jit
    def run(counts, total):
        batch = BatchCounts(counts, total, rows, weights)
        read = batch.before(jnp.array([1, 2, 3])), batch.sum_before()
        seen = batch.seen(jnp.arange(4))
        return read, seen, batch.after(), batch.after(wait=True)

    (before, total), seen, at_once, after_waiting = run(counts, sum_of(counts))
    np.testing.assert_array_equal(before, [5, 0, 1])
    assert total == 6
    np.testing.assert_array_equal(seen, [False, True, True, True])
    for now, total in (at_once, after_waiting):
        np.testing.assert_array_equal(now, [0, 6, 2, 1])
        assert as_int(total) == 9


def test_the_sum_goes_on_where_int32_ends():
    counts = jnp.array([2**31 - 5, 2**31 - 5, 7], "int32")
    total = sum_of(counts)
    assert as_int(total) == 2**32 - 3
    rows = jnp.zeros((8,), "int32") + 2
    for _ in range(3):
        batch = BatchCounts(counts, total, rows, jnp.ones((8,)))
        counts, total = batch.after()
    assert as_int(total) == 2**32 - 3 + 24
    last = BatchCounts(counts, total, rows, jnp.ones((8,)))
    assert float(last.sum_before()) == np.float32(2**32 + 21)


@pytest.mark.parametrize(
    "num_devices", [1, pytest.param(4, marks=pytest.mark.slow)]
)
def test_training_keeps_the_sum(num_devices, on_devices):
    on_devices(num_devices)
    model, x, y = trained(epochs=2)
    assert sum_variable(model) == 2 * 37 == np.sum(model.candidate_counts)
    model.train_on_batch(x[:3], {"movie_id": y["movie_id"][:3]})
    model.evaluate(x, y, verbose=0)
    assert sum_variable(model) == 2 * 37 + 3 == np.sum(model.candidate_counts)


def test_in_training_the_sum_is_carried_and_not_added_up(monkeypatch):
    model, x, y = trained()
    (variable,) = model.derived_variables
    assert sum_variable(model) == 37
    monkeypatch.setattr(variable, "_derive", None)  # Calling it would fail.
    model.fit(x, y, batch_size=8, epochs=3, verbose=0)
    model.train_on_batch(x, y)
    assert sum_variable(model) == 5 * 37


def test_the_sum_follows_every_other_change_of_the_counts(tmp_path):
    model, x, y = trained()
    weights = model.get_weights()
    model.candidate_counts.assign(np.arange(30))
    assert sum_variable(model) == 435
    model.set_weights(weights)
    assert sum_variable(model) == 37
    model.add_candidates(5)
    assert sum_variable(model) == 37
    model.fit(x, y, batch_size=8, verbose=0)
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert sum_variable(loaded) == 2 * 37
    loaded.candidate_counts.assign(np.zeros(35))
    assert sum_variable(loaded) == 0
    loaded.load_weights(tmp_path / "m.weights.h5")
    assert sum_variable(loaded) == 2 * 37


def test_a_callback_may_change_the_counts():
    class Forget(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.candidate_counts.assign(np.zeros(30))

    model, *_ = trained(epochs=3, callbacks=[Forget()])
    assert sum_variable(model) == 37 == np.sum(model.candidate_counts)


def test_the_sum_is_no_weight():
    model, *_ = trained()
    (variable,) = model.derived_variables
    assert all(variable is not weight for weight in model.weights)
    assert any(variable is one for one in model.non_trainable_variables)


def scored(counts, **more):
    return ScoredBatch(
        user_vectors=None,
        candidate_rows=jnp.array([1, 2]),
        weights=jnp.ones((2,)),
        lookup=None,
        all_candidate_vectors=None,
        candidate_counts=jnp.asarray(counts, "float32"),
        **more,
    )


def test_shares_and_competitors_of_some_rows_are_those_of_all():
    counts = jnp.array([0, 3, 0, 8, 0], "int32")
    plain = scored(counts)
    batch = BatchCounts(
        counts, sum_of(counts), plain.candidate_rows, plain.weights
    )
    looked_up = scored(
        counts,
        counts_at=batch.before,
        num_counted=batch.sum_before(),
        competes=batch.after()[0] > 0,
        competes_at=batch.seen,
    )
    expected = np.log(np.array([0, 3, 0, 8, 0]) + 1) - np.log(11 + 5)
    rows = jnp.array([4, 3, 2, 1, 0])
    for one in (plain, looked_up):
        np.testing.assert_allclose(log_share(one), expected, rtol=1e-6)
        np.testing.assert_allclose(
            log_share(one, rows), expected[::-1], rtol=1e-6
        )
    whole = competing(looked_up)
    np.testing.assert_array_equal(whole, [False, True, True, True, False])
    np.testing.assert_array_equal(competing(looked_up, rows), whole[::-1])


def test_other_counts_change_the_correction_alone():
    losses = []
    for logq in ("corrected", "off"):
        model, x, y = trained(kdr.InBatchSoftmax(logq=logq))
        before = model.evaluate(x, y, verbose=0)
        model.candidate_counts.assign(np.arange(30) ** 2)
        losses.append(model.evaluate(x, y, verbose=0) - before)
    assert abs(losses[0]) > 1e-4
    assert losses[1] == 0
