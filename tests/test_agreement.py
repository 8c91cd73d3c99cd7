"""Processes with different data get an error before the first step."""

import json

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval import agreement, distribution
from keras_dp_retrieval._jax import processes
from keras_dp_retrieval.training import same_model
from keras_dp_retrieval.training.padded_batches import PaddedBatches

X = np.arange(1, 41)
Y = {"movie_id": np.arange(1, 41) % 9 + 1}


def identity(x=X, y=Y, batch_size=8):
    return PaddedBatches({"x": x, "y": y, "batch_size": batch_size}).identity()


def test_the_same_data_agrees_and_any_other_does_not():
    agreement.compare({0: identity(), 1: identity(X.copy(), dict(Y))})
    changed = X.copy()
    changed[-1] = 1
    others = {
        "rows": identity(X[:30], {"movie_id": Y["movie_id"][:30]}),
        "batch size": identity(batch_size=5),
        "contents": identity(changed),
    }
    for name, other in others.items():
        with pytest.raises(ValueError, match=rf"process 1: .*{name} ") as error:
            agreement.compare({0: identity(), 1: other})
        assert "the whole data set, with the same seed" in str(error.value)
    both = others["rows"]["rows"], identity()["rows"]
    with pytest.raises(ValueError, match=r"process 0: .*rows 40.*rows 30"):
        agreement.compare({0: identity(), 1: others["rows"]})
    assert both == (30, 40)


def data_set(seed=1, num_rows=60):
    rng = np.random.default_rng(0)
    users, items = rng.integers(1, 9, (2, num_rows))
    return kdr.RetrievalDataset.from_interactions(
        users, items, np.full(num_rows, 3.0), batch_size=8, seed=seed
    )


@pytest.mark.parametrize("kind", ["train", "validation", "by_user"])
def test_data_sets_have_an_identity(kind):
    def of(data):
        stream = getattr(data, kind)
        return PaddedBatches(
            {"x": stream() if callable(stream) else stream}
        ).identity()

    first = of(data_set())
    assert first["rows"] and first["contents"]
    assert first == of(data_set())
    assert first != of(data_set(seed=2))
    assert first != of(data_set(num_rows=59))


def test_what_is_not_known_equals_anything():
    known, unknown = {"rows": 3, "steps": 2}, {"rows": None, "steps": 2}
    agreement.compare({0: known, 1: unknown})
    with pytest.raises(ValueError, match="process 1: steps 3"):
        agreement.compare({0: unknown, 1: {"rows": None, "steps": 3}})


@pytest.mark.parametrize("come", [True, False])
def test_fit_compares_before_it_trains(monkeypatch, come):
    notes = []

    def gather(client, folder, index, count, text, seconds):
        notes.append(json.loads(text))
        other = {**notes[-1], "training rows": 30}
        return {0: text, 1: json.dumps(other)} if come else {0: text}

    monkeypatch.setattr(distribution, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "store", lambda: object())
    monkeypatch.setattr(processes, "gather", gather)
    monkeypatch.setattr(processes, "remove", lambda client, key: None)
    model = kdr.TwoTowerRetrieval(50, 20, 2)
    model.compile("sgd")
    model.build()
    before = model.get_weights()
    expected = (
        (ValueError, "process 0: training rows 40; process 1: training rows 30")
        if come
        else (RuntimeError, "no call from process 1 within")
    )
    with pytest.raises(expected[0], match=expected[1]):
        model.fit(X, Y, batch_size=8, verbose=0, validation_data=(X, Y))
    assert notes[-1]["validation rows"] == 40
    for found, was in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, was)


def test_the_process_that_differs_is_named_among_many():
    identities = {process: {"rows": 40} for process in range(4)}
    identities[2] = {"rows": 30}
    with pytest.raises(
        ValueError,
        match=r"processes 0, 1, 3: rows 40; process 2: rows 30\. Process 2 "
        "differs from the others",
    ):
        agreement.compare(identities)
    identities[3] = {"rows": 30}
    with pytest.raises(ValueError, match=r"processes 2, 3: rows 30\. Give"):
        agreement.compare(identities)


def test_calls_that_do_not_belong_together_are_told_apart():
    one = {"call": "fit", "rows": 3}
    other = {"call": "for_dataset", "ids": "a"}
    with pytest.raises(ValueError, match="0: call fit; process 1: call for_d"):
        agreement.compare({0: one, 1: other})


def made(seed=3, rate=0.1, temperature=0.1):
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(seed)
    objective = kdr.FullSoftmax(temperature=temperature)
    model = kdr.TwoTowerRetrieval(50, 20, 2, objective=objective)
    model.compile(keras.optimizers.Adagrad(rate))
    model.build()
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.mark.slow
def test_models_that_differ_in_anything_are_told_apart():
    known = same_model.identity(made(), {"epochs": 2})
    assert None not in known.values()
    agreement.compare({0: known, 1: same_model.identity(made(), {})})
    for name, other in {
        "weights": made(seed=4),
        "optimizer": made(rate=0.2),
        "model's arguments": made(temperature=0.2),
    }.items():
        others = same_model.identity(other, {"epochs": 2})
        with pytest.raises(ValueError, match=f"process 1: .*{name}"):
            agreement.compare({0: known, 1: others})
    with pytest.raises(ValueError, match="process 1: epochs 3"):
        agreement.compare({0: known, 1: {**known, "epochs": 3}})
