"""Models on data that is not in memory: trained, evaluated, asked."""

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import keras_dp_retrieval as kdr
from tests.test_multi_process import finish, free_port

PROGRAM = pathlib.Path(__file__).parent / "programs" / "train_streamed.py"


def write_interactions(folder, num_rows=1500):
    rng = np.random.default_rng(0)
    candidates = rng.integers(0, 50, num_rows)
    table = pa.table(
        {
            "user_id": rng.integers(5, 90, num_rows),
            "candidate_id": candidates * 2,
            "timestamp": rng.integers(0, 700, num_rows),
        }
    )
    folder.mkdir()
    for number in range(3):
        part = table.slice(number * num_rows // 3, num_rows // 3)
        path = folder / f"{number}.parquet"
        parquet.write_table(part, path, row_group_size=40)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_interactions(tmp_path_factory.mktemp("data") / "d")


OPTIONS = {"timestamp_column": "timestamp", "batch_size": 60}


@pytest.fixture(scope="module")
def streamed(folder):
    return kdr.RetrievalDataset.from_parquet(folder, streaming=True, **OPTIONS)


@pytest.fixture
def in_memory(folder):
    with pytest.warns(match="also in the train part"):
        return kdr.RetrievalDataset.from_parquet(
            folder, split="by_time", **OPTIONS
        )


@pytest.fixture(scope="module")
def model(streamed):
    keras.utils.set_random_seed(0)
    made = kdr.TwoTowerRetrieval.for_dataset(streamed, 4)
    made.compile(keras.optimizers.Adagrad(0.5))
    made.fit(streamed.train, epochs=2, verbose=0)
    return made


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("max_users", [1, 20, 1000])
def test_streamed_data_is_evaluated_as_data_in_memory(
    model, streamed, in_memory, split, max_users
):
    found, expected = (
        kdr.evaluate(model, data, split, max_users=max_users, seed=3, cold=True)
        for data in (streamed, in_memory)
    )
    num_users = len(np.unique(in_memory.ratings(split).user_rows))
    assert found["num_users"] == min(max_users, num_users)
    np.testing.assert_equal(found, expected)  # NaN is NaN.


def test_drawn_users_are_those_that_all_users_have_on_average(model, in_memory):
    whole = kdr.evaluate(model, in_memory)
    drawn = [
        kdr.evaluate(model, in_memory, max_users=30, seed=seed)
        for seed in range(40)
    ]
    assert len({one["ndcg_at_10"] for one in drawn}) > 30
    mean = np.mean([one["ndcg_at_10"] for one in drawn])
    assert mean == pytest.approx(whole["ndcg_at_10"], rel=0.1)
    again = kdr.evaluate(model, in_memory, max_users=30, seed=7)
    assert again == drawn[7]


def test_metrics_in_fit_are_those_of_the_same_users(streamed, tmp_path):
    metrics = kdr.RetrievalMetrics(streamed, max_users=15, seed=2)
    model = kdr.TwoTowerRetrieval.for_dataset(streamed, 4)
    model.compile(keras.optimizers.Adagrad(0.5))
    logs = model.fit(
        streamed.train,
        validation_data=streamed.validation,
        callbacks=[metrics],
        verbose=0,
    ).history
    expected = kdr.evaluate(model, streamed, "validation", max_users=15, seed=2)
    assert logs["val_ndcg_at_10"][-1] == expected["ndcg_at_10"]
    assert np.isfinite(logs["val_loss"]).all()
    assert metrics.get_config()["max_users"] == 15
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    assert loaded.trained_on == streamed.fingerprint
    exclude = [[0, 2, 4], []]
    for one, other in zip(
        model.recommend([5, 6], exclude=exclude),
        loaded.recommend([5, 6], exclude=exclude),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
        assert not {0, 2, 4} & set(one[0].tolist())


class Killed(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 4:
            raise KeyboardInterrupt


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_fit_goes_on_where_it_was_broken_off(streamed):
    """What the reader has read ahead by then is nobody's business."""

    def start():
        keras.utils.set_random_seed(0)
        model = kdr.TwoTowerRetrieval.for_dataset(streamed, 4)
        model.compile(keras.optimizers.Adagrad(0.5))
        streamed.start_at(0)
        return model

    whole, broken = start(), start()
    whole.fit(streamed.train, epochs=2, verbose=0)
    streamed.start_at(0)
    with pytest.raises(KeyboardInterrupt):
        broken.fit(streamed.train, verbose=0, callbacks=[Killed()])
    streamed.start_at(0, int(broken.optimizer.iterations))
    broken.fit(streamed.train, epochs=2, verbose=0)
    for weight, same in zip(
        whole.get_weights(), broken.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(weight, same)


def test_what_needs_all_interactions_names_the_remedy(model, streamed):
    tower = kdr.IdHistoryTower(streamed.num_users, streamed.num_candidates, 4)
    for use in (
        lambda: kdr.fit_recipe(streamed),
        lambda: kdr.RetrievalHyperModel(streamed),
        lambda: kdr.TwoTowerRetrieval.for_dataset(streamed, user_tower=tower),
        lambda: kdr.evaluate(model, streamed),
        lambda: kdr.RetrievalMetrics(streamed),
    ):
        with pytest.raises(ValueError, match=r"in memory.*without `streaming"):
            use()
    with pytest.raises(ValueError, match=r"max_users=\.\.\."):
        kdr.RetrievalMetrics(streamed)
    with pytest.raises(ValueError, match=r"`max_users` must be a whole"):
        kdr.evaluate(model, streamed, max_users=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_processes", "max_history"), [(2, 0), (3, 0), (2, 6)]
)
def test_processes_that_read_their_share_give_what_one_gives(
    folder, tmp_path, num_processes, max_history
):
    def start(name, count, index, port):
        command = [PROGRAM, folder, tmp_path / name, port, count, index]
        command.append(max_history)
        return subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    finish([start("alone.npz", 1, 0, 0)])
    port = free_port()
    names = [f"{index}.npz" for index in range(num_processes)]
    finish(
        [
            start(name, num_processes, index, port)
            for index, name in enumerate(names)
        ]
    )
    expected = np.load(tmp_path / "alone.npz")
    num_read = []
    for name in names:
        found = np.load(tmp_path / name)
        for key in expected.files:
            if key == "num_read":
                num_read.append(int(found[key]))
                continue
            np.testing.assert_allclose(found[key], expected[key], atol=1e-5)
    # An epoch of 39 row groups and up to two eighths more for each.
    most = expected["num_read"] * (1 / num_processes + 2 / 8)
    assert max(num_read) <= most
