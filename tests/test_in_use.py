"""One model, several threads."""

import threading

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval.training.in_use import InUse

IDS = np.arange(1, 33)
LABELS = {"movie_id": np.arange(1, 33) % 20 + 1}


def compiled():
    model = kdr.TwoTowerRetrieval(40, 24, 4)
    model.compile(keras.optimizers.Adagrad(0.1))
    return model


def fit(model, callback=None, **options):
    options = {"batch_size": 8, "verbose": 0, "shuffle": False, **options}
    return model.fit(
        IDS, LABELS, callbacks=[callback] if callback else [], **options
    )


def after_every_batch(function):
    class After(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            function(batch)

    return After()


@pytest.mark.parametrize(
    "num_devices", [1, pytest.param(4, marks=pytest.mark.slow)]
)
def test_eight_threads_ask_while_one_trains(num_devices, on_devices):
    on_devices(num_devices)
    model = compiled()
    fit(model)
    expected = model.recommend([1, 2, 3])
    done = threading.Event()
    asked = threading.Semaphore(0)
    refused, others, answers = [], [], []

    def ask():
        while not done.is_set():
            try:
                answers.append(model.recommend([1, 2, 3])[1])
            except RuntimeError as error:
                refused.append(str(error))
            except BaseException as error:
                others.append(repr(error))
            asked.release()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        # So that there are questions after every batch.
        wait = after_every_batch(
            lambda batch: [asked.acquire(timeout=30) for _ in range(16)]
        )
        fit(model, wait, epochs=3)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not others
    assert refused
    assert all("is being trained (`fit`)" in text for text in set(refused))
    assert all(scores.shape == (3, 10) for scores in answers)
    _, scores = model.recommend([1, 2, 3])  # Nothing is held for ever.
    assert np.isfinite(scores).all()
    assert not np.array_equal(scores, expected[1])


@pytest.mark.slow
def test_its_own_callbacks_may_ask_evaluate_and_save(tmp_path):
    keras.utils.set_random_seed(0)
    undisturbed = compiled()
    fit(undisturbed, epochs=2)
    keras.utils.set_random_seed(0)
    model = compiled()
    seen = []

    def everything(batch):
        model.save(tmp_path / "m.keras")
        ids, scores = model.recommend([1, 2, 3], k=3)
        losses = model.evaluate(IDS, LABELS, batch_size=8, verbose=0)
        seen.append((ids, scores, losses))
        loaded = keras.saving.load_model(tmp_path / "m.keras")
        np.testing.assert_array_equal(loaded.recommend([1, 2, 3], k=3)[0], ids)

    fit(model, after_every_batch(everything), epochs=2)
    assert len(seen) == 8
    assert seen[0][2] > seen[-1][2]
    for found, expected in zip(
        model.get_weights(), undisturbed.get_weights(), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def in_another_thread(function):
    raised = []

    def run():
        try:
            function()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    return raised


@pytest.mark.parametrize(
    "method",
    ["fit", "evaluate", "predict", "save", "encode_users", "get_weights"],
)
def test_another_thread_is_told_that_the_model_is_being_trained(
    method, tmp_path
):
    model = compiled()
    calls = {
        "fit": lambda: fit(model),
        "evaluate": lambda: model.evaluate(IDS, LABELS, verbose=0),
        "predict": lambda: model.predict(IDS, verbose=0),
        "save": lambda: model.save(tmp_path / "m.keras"),
        "encode_users": lambda: model.encode_users([1, 2]),
        "get_weights": model.get_weights,
    }
    raised = []
    fit(
        model,
        after_every_batch(
            lambda batch: raised.extend(in_another_thread(calls[method]))
        ),
        batch_size=32,
    )
    ((error),) = raised
    assert isinstance(error, RuntimeError)
    assert f"`{method}` must wait" in str(error)
    assert "is being trained (`fit`) in another thread" in str(error)
    assert not (tmp_path / "m.keras").exists()
    assert in_another_thread(calls[method]) == []


def test_a_loop_waits_for_those_who_are_reading():
    use, order, began = InUse(), [], threading.Event()

    def train():
        began.set()
        with use.loop("fit"):
            order.append("trained")

    thread = threading.Thread(target=train)
    with use.read("recommend"):
        thread.start()
        began.wait()
        thread.join(0.2)
        order.append("read")
    thread.join()
    assert order == ["read", "trained"]
