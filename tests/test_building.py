"""Towers of any kind are built, saved and loaded, and must fit together."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_dp_retrieval as kdr
from keras_dp_retrieval.data.interactions import Interactions
from keras_dp_retrieval.towers.histories import Histories

PACKAGE = "test_building"


@keras.saving.register_keras_serializable(package=PACKAGE)
class LazyTower(keras.layers.Layer):
    """As the Keras docs write a layer: no `build` of its own."""

    def __init__(self, num_rows, dim=4, **kwargs):
        super().__init__(**kwargs)
        self.num_rows, self.dim = num_rows, dim
        self.table = keras.layers.Embedding(num_rows, 3)
        self.dense = keras.layers.Dense(dim)

    def call(self, rows):
        return self.dense(self.table(rows))

    def get_config(self):
        config = super().get_config()
        return {**config, "num_rows": self.num_rows, "dim": self.dim}


@keras.saving.register_keras_serializable(package=PACKAGE)
class FeatureTower(LazyTower):
    """Ids and numbers, as a dict."""

    def call(self, inputs):
        known = self.table(inputs["user_id"])
        return self.dense(ops.concatenate([known, inputs["features"]], -1))


@keras.saving.register_keras_serializable(package=PACKAGE)
class OtherWeightsTower(LazyTower):
    """Has a layer that is not used when the tower is called symbolically."""

    uses_more = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.more = keras.layers.Dense(self.dim)

    def call(self, rows):
        vectors = super().call(rows)
        return self.more(vectors) if self.uses_more else vectors


def targets(num_rows=12):
    rng = np.random.default_rng(1)
    return {"movie_id": rng.integers(1, 7, num_rows)}


def user_rows(num_rows=12):
    return np.random.default_rng(0).integers(1, 5, num_rows)


def features(num_rows=12):
    rng = np.random.default_rng(2)
    return {
        "user_id": user_rows(num_rows),
        "features": rng.random((num_rows, 2)).astype("float32"),
    }


def trained_model(x, user_tower, **kwargs):
    model = kdr.TwoTowerRetrieval(5, 7, 4, user_tower=user_tower, **kwargs)
    model.compile("adagrad")
    model.fit(x, targets(), batch_size=6, shuffle=False, verbose=0)
    return model


def next_loss(model, x):
    history = model.fit(x, targets(), batch_size=6, shuffle=False, verbose=0)
    return history.history["loss"]


@pytest.mark.parametrize(
    ("tower", "x"),
    [(LazyTower, user_rows()), (FeatureTower, features())],
    ids=["ids", "features"],
)
def test_towers_without_a_build_are_saved_and_go_on(tmp_path, tower, x):
    model = trained_model(x, tower(5), candidate_tower=LazyTower(7))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.user_vectors(x), model.user_vectors(x))
    np.testing.assert_array_equal(
        loaded.candidate_vectors(), model.candidate_vectors()
    )
    assert next_loss(loaded, x) == next_loss(model, x)


def test_a_model_that_is_built_from_a_shape_takes_weights(tmp_path):
    def new_model():
        return kdr.TwoTowerRetrieval(
            5, 7, 4, user_tower=LazyTower(5), candidate_tower=LazyTower(7)
        )

    model = new_model()
    model.build((None,))
    model.save_weights(tmp_path / "m.weights.h5")
    other = new_model()
    other.build((None,))
    other.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(
        other.user_vectors(np.arange(5)), model.user_vectors(np.arange(5))
    )
    np.testing.assert_array_equal(
        other.candidate_vectors(), model.candidate_vectors()
    )


# Keras, when it tries to build the tower.
@pytest.mark.filterwarnings("ignore:Layer 'feature_tower' looks:UserWarning")
@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called on:UserWarning")
def test_a_tower_that_cannot_be_built_is_not_saved_without_weights(tmp_path):
    model = kdr.TwoTowerRetrieval(5, 7, 4, user_tower=FeatureTower(5))
    with pytest.raises(ValueError, match=r"built from user rows.*Call it on"):
        model.save(tmp_path / "m.keras")
    assert not list(tmp_path.iterdir())
    model.user_vectors(features())
    model.save(tmp_path / "m.keras")
    loaded = kdr.TwoTowerRetrieval.load(tmp_path / "m.keras")
    np.testing.assert_array_equal(
        loaded.user_vectors(features()), model.user_vectors(features())
    )


def test_weights_that_the_loaded_towers_lack_are_an_error(
    tmp_path, monkeypatch
):
    model = trained_model(user_rows(), OtherWeightsTower(5))
    model.save(tmp_path / "m.keras")
    monkeypatch.setattr(OtherWeightsTower, "uses_more", False)
    for load in (keras.saving.load_model, kdr.TwoTowerRetrieval.load):
        with pytest.raises(ValueError, match="some would be lost"):
            load(tmp_path / "m.keras")


# Parts that do not fit


def histories_of(num_users, rows):
    indptr = np.zeros(num_users + 1, int)
    indptr[-1] = len(rows)
    return Histories.from_interactions(Interactions(indptr, np.array(rows)))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"user_tower": kdr.RowEmbedding(3, 4)},
            r"row for each of the 5 users .* with 3 rows",
        ),
        (
            {
                "candidate_tower": keras.Sequential(
                    [keras.layers.Embedding(6, 4), keras.layers.Dense(4)]
                )
            },
            r"row for each of the 7 candidates .* with 6 rows",
        ),
        (
            {"user_tower": kdr.RowEmbedding(5, 3)},
            "Received: 3 from the user tower .* and 4 from",
        ),
        ({"histories": histories_of(4, [1, 2])}, "Received: 4, and 5"),
        ({"histories": histories_of(5, [1, 7])}, "from 0 to 6 .*: 0 to 7"),
        (
            {
                "histories": histories_of(5, [1, 2]),
                "user_tower": kdr.IdHistoryTower(5, 9, 4),
            },
            "`num_candidates` of 'id_history_tower'.*Received: 9, and 7",
        ),
    ],
    ids=["users", "candidates", "dim", "histories", "rows", "history tower"],
)
def test_parts_of_other_sizes_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        kdr.TwoTowerRetrieval(5, 7, 4, **parts)


def test_vectors_of_two_lengths_are_refused_before_training():
    model = kdr.TwoTowerRetrieval(5, 7, 4, user_tower=LazyTower(5, dim=3))
    model.compile("adagrad")
    with pytest.raises(ValueError, match="Received: 3 from the user tower"):
        model.fit(user_rows(), targets(), verbose=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda size: kdr.TwoTowerRetrieval(size, 7),
        lambda size: kdr.TwoTowerRetrieval(5, size),
        lambda size: kdr.TwoTowerRetrieval(5, 7, size),
        lambda size: kdr.RowEmbedding(size, 4),
        lambda size: kdr.RowEmbedding(4, size),
        lambda size: kdr.RecencyTower(size, 4),
        lambda size: kdr.IdHistoryTower(size, 7, 4),
        lambda size: Histories(size, 3, 2),
        lambda size: Histories(3, size, 2),
    ],
)
def test_sizes_that_rows_cannot_count_are_refused(make):
    for size in (2**31, 10**18):
        with pytest.raises(ValueError, match="at most 2,147,483,647"):
            make(size)
