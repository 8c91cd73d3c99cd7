"""The callback inside a real `fit`, and what others read from its logs."""

import copy
import json

import keras
import numpy as np
import pytest

from keras_dp_retrieval import metrics
from keras_dp_retrieval.callbacks.retrieval_metrics import RetrievalMetrics
from keras_dp_retrieval.data.interactions import Interactions
from keras_dp_retrieval.data.ratings import Ratings
from keras_dp_retrieval.data.vocabulary import Vocabulary

NUM_USERS, NUM_CANDIDATES = 12, 20


@keras.saving.register_keras_serializable(package="test_retrieval_metrics")
class Data:
    """Users like the candidates of their own parity."""

    num_users, num_candidates = NUM_USERS, NUM_CANDIDATES

    def __init__(self, seed=0, with_validation=True):
        self.seed, self.with_validation = seed, with_validation
        users, candidates = np.nonzero(
            np.add.outer(np.arange(NUM_USERS), np.arange(NUM_CANDIDATES)) % 2
            == 0
        )
        real = (users > 0) & (candidates > 0)
        users, candidates = users[real], candidates[real]
        order = np.random.default_rng(seed).permutation(len(users))
        everything = Ratings(users[order], candidates[order])
        self.parts = {
            "train": everything.take(slice(0, 60)),
            "validation": everything.take(
                slice(60, None if with_validation else 60)
            ),
        }
        self.candidate_vocabulary = Vocabulary(np.arange(1, NUM_CANDIDATES))

    def ratings(self, split):
        return self.parts[split]

    def seen_before(self, split):
        return Interactions.from_ratings(self.parts["train"], NUM_USERS)

    def candidate_counts(self, split):
        rows = self.ratings(split).candidate_rows
        return np.bincount(rows, minlength=NUM_CANDIDATES)

    def get_config(self):
        return {"seed": self.seed, "with_validation": self.with_validation}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __deepcopy__(self, memo):
        raise AssertionError("A data set is too large to be copied.")


class TwoTables(keras.Model):
    """Scores a pair by a dot product: any Keras model will do."""

    def __init__(self):
        super().__init__()
        self.users = keras.layers.Embedding(NUM_USERS, 8)
        self.candidates = keras.layers.Embedding(NUM_CANDIDATES, 8)

    def call(self, pairs):
        return keras.ops.sum(
            self.users(pairs[:, 0]) * self.candidates(pairs[:, 1]), axis=-1
        )

    def user_vectors(self, user_rows):
        return self.users(np.asarray(user_rows))

    def candidate_vectors(self):
        return self.candidates.embeddings.value


def fit(callbacks, epochs=3, data=None, learning_rate=0.02):
    data = data or Data()
    model = TwoTables()
    model.compile(keras.optimizers.Adam(learning_rate), loss="mse")
    # Every pair is an example: 1 where it is in the train part, no weight where
    # it is held out. 240 pairs divide over 8 devices.
    pairs = np.stack(
        np.meshgrid(
            np.arange(NUM_USERS), np.arange(NUM_CANDIDATES), indexing="ij"
        ),
        axis=-1,
    ).reshape(-1, 2)
    train = data.ratings("train")
    labels = np.zeros((NUM_USERS, NUM_CANDIDATES), "float32")
    labels[train.user_rows, train.candidate_rows] = 1.0
    weights = np.ones_like(labels)
    held_out = data.ratings("validation")
    weights[held_out.user_rows, held_out.candidate_rows] = 0.0
    history = model.fit(
        pairs,
        labels.reshape(-1),
        sample_weight=weights.reshape(-1),
        batch_size=40,
        epochs=epochs,
        verbose=0,
        callbacks=callbacks,
    )
    return model, history


class Reader(keras.callbacks.Callback):
    """What a callback placed later in the list finds in the logs."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(dict(logs))


def test_logs_are_what_evaluate_says_of_the_model_at_that_moment():
    data, reader = Data(), Reader()
    model, history = fit([RetrievalMetrics(data, ks=(1, 5)), reader])
    expected = metrics.evaluate(model, data, split="validation", ks=(1, 5))
    del expected["num_users"]
    last = {
        name: value
        for name, value in reader.seen[-1].items()
        if name.startswith("val_")
    }
    assert last == {f"val_{name}": value for name, value in expected.items()}
    assert all(type(value) is float for value in last.values())
    assert [len(history.history[name]) for name in last] == [3] * len(last)


def test_learning_shows_in_the_logs():
    _, history = fit([RetrievalMetrics(Data(), ks=(5,))], epochs=5)
    recall = history.history["val_recall_at_5"]
    assert recall[0] < 0.6 and recall[-1] > 0.85


def test_early_stopping_and_checkpoints_can_watch_it(tmp_path):
    path = tmp_path / "best.weights.h5"
    stop = keras.callbacks.EarlyStopping(
        "val_ndcg_at_5", mode="max", patience=1, min_delta=2.0
    )
    checkpoint = keras.callbacks.ModelCheckpoint(
        path,
        monitor="val_ndcg_at_5",
        mode="max",
        save_best_only=True,
        save_weights_only=True,
    )
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    callbacks = [RetrievalMetrics(Data(), ks=(5,)), stop, checkpoint, log]
    _, history = fit(callbacks, epochs=9)
    assert len(history.epoch) == 2  # Nothing can improve by 2.
    assert path.exists()
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert "val_ndcg_at_5" in rows[0] and len(rows) == 3


def test_every_third_epoch_and_the_first_and_the_last():
    reader = Reader()
    fit([RetrievalMetrics(Data(), ks=(5,), every=3), reader], epochs=6)
    has = ["val_recall_at_5" in logs for logs in reader.seen]
    assert has == [True, False, False, True, False, True]


def test_another_split_has_its_own_prefix():
    data = Data()
    data.parts["test"] = data.parts["validation"]
    _, history = fit([RetrievalMetrics(data, ks=(5,), split="test")], epochs=1)
    assert "test_recall_at_5" in history.history
    assert "val_recall_at_5" not in history.history


@pytest.mark.parametrize("num_devices", [2, 8])
def test_devices_do_not_change_the_logs(on_devices, num_devices):
    def logs():
        keras.utils.set_random_seed(1)
        return fit([RetrievalMetrics(Data(), ks=(5,))])[1].history

    expected = logs()
    on_devices(num_devices)
    actual = logs()
    for name, values in expected.items():
        if name.startswith("val_"):
            np.testing.assert_allclose(actual[name], values, atol=1e-6)


def test_no_hook_on_batches():
    # One would make Keras wait for the device after every step.
    base = keras.callbacks.Callback
    for name in dir(base):
        if "batch" in name:
            assert getattr(RetrievalMetrics, name) is getattr(base, name)
    callbacks = keras.callbacks.CallbackList([RetrievalMetrics(Data())])
    assert callbacks._async_train


def test_config_round_trip_through_json():
    callback = RetrievalMetrics(Data(seed=3), ks=(5, 1), every=2)
    config = json.loads(
        json.dumps(keras.saving.serialize_keras_object(callback))
    )
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == callback.get_config()
    assert (again.data.seed, again.ks, again.every) == (3, (1, 5), 2)
    assert again.split == "validation"
    assert config["registered_name"] == "keras_dp_retrieval>RetrievalMetrics"


def test_deep_copy_shares_the_data_and_forgets_the_model():
    callback = RetrievalMetrics(Data(), ks=(5,))
    fit([callback], epochs=1)
    copied = copy.deepcopy(callback)
    assert copied.data is callback.data
    assert copied.model is None and callback.model is not None
    _, history = fit([copied], epochs=1)
    assert "val_recall_at_5" in history.history


def test_data_without_a_validation_part_is_refused_at_once():
    with pytest.raises(ValueError, match="no ratings in its 'validation' part"):
        RetrievalMetrics(Data(with_validation=False))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "valid"}, "`split` must be one of 'validation', 'test'"),
        ({"every": 0}, "`every` must be a whole number of 1 or more"),
        ({"ks": ()}, "`ks` must be"),
    ],
)
def test_arguments_are_checked_at_the_door(arguments, message):
    with pytest.raises(ValueError, match=message):
        RetrievalMetrics(Data(), **arguments)
