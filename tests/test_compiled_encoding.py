"""Outside of training the towers run as one program, with the same results."""

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval.model import encoding
from tests.compilations import compiled_programs

if keras.backend.backend() != "jax":
    pytest.skip("Other backends compile nothing.", allow_module_level=True)


def small_data():
    rng = np.random.default_rng(0)
    return kdr.RetrievalDataset.from_interactions(
        rng.integers(1, 21, 200),
        rng.integers(1, 31, 200),
        test_fraction=0,
        validation_fraction=0,
    )


def with_histories(**options):
    data = small_data()
    tower = kdr.IdHistoryTower(data.num_users, data.num_candidates, 8, seed=1)
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, 8, user_tower=tower, objective="full_softmax", **options
    )
    model.build()
    return model


@pytest.fixture
def traced(monkeypatch):
    """The inputs of every pass of the user tower in Python."""
    inputs = []
    plain = encoding.user_vectors

    def noted(model, given, training=False):
        inputs.append(given)
        return plain(model, given, training)

    monkeypatch.setattr(encoding, "user_vectors", noted)
    return inputs


def test_the_program_has_the_bits_of_the_layers():
    model = with_histories()
    rows = np.arange(1, 12, dtype="int32")
    np.testing.assert_array_equal(
        model.user_vectors(rows), encoding.user_vectors(model, rows)
    )
    everyone = np.arange(model.num_candidates, dtype="int32")
    expected = encoding.candidate_vectors(model, everyone)
    np.testing.assert_array_equal(model.candidate_vectors(), expected)
    np.testing.assert_array_equal(
        model.candidate_vectors(rows), np.asarray(expected)[rows]
    )


def test_python_runs_the_tower_once_for_a_number_of_users(traced):
    model = with_histories()
    traced.clear()
    for rows in ([1, 2], [3, 4], [5, 6, 7], [2, 1]):
        model.user_vectors(np.array(rows, "int32"))
    assert [given.shape for given in traced] == [(2,), (3,)]


def test_weights_and_popularity_are_those_of_the_call(traced):
    model, rows = with_histories(), np.array([1, 2], "int32")
    traced.clear()
    before = np.asarray(model.user_vectors(rows))
    table = model.user_tower.ids.embeddings
    table.assign(table + 1.0)
    model.popularity_weight = 0.5
    after = np.asarray(model.user_vectors(rows))
    assert len(traced) == 1
    assert after.shape == (2, 9) and (after[:, -1] == 1).all()
    expected = encoding.user_vectors(model, rows)
    np.testing.assert_array_equal(after[:, :-1], expected)
    assert np.abs(after[:, :-1] - before).max() > 0.1


class Scaled(keras.layers.Embedding):
    scale = 1.0

    def call(self, rows):
        return self.scale * super().call(rows)


def test_a_tower_of_ones_own_is_called_each_time(traced):
    model = kdr.TwoTowerRetrieval(5, 7, 4, user_tower=Scaled(5, 4))
    model.build()
    traced.clear()
    rows = np.array([1, 2], "int32")
    before = np.asarray(model.user_vectors(rows))
    model.user_tower.scale = -1.0
    np.testing.assert_array_equal(model.user_vectors(rows), -before)
    assert len(traced) == 2


def test_new_users_are_in_the_program():
    model = with_histories()
    rows = np.array([1, 2], "int32")
    before = np.asarray(model.user_vectors(rows))
    model.add_users([100, 101])
    new = np.array([model.num_users - 2, model.num_users - 1], "int32")
    expected = encoding.user_vectors(model, new)
    np.testing.assert_array_equal(model.user_vectors(new), expected)
    np.testing.assert_array_equal(model.user_vectors(rows), before)


@pytest.mark.parametrize("objective", ["rating", "full_softmax"])
def test_all_candidates_outlive_the_table_they_were_made_of(objective):
    model = kdr.TwoTowerRetrieval(5, 7, 4, objective=objective)
    model.compile(optimizer=keras.optimizers.Adagrad(0.5))
    model.build()
    rows = np.arange(7, dtype="int32")
    expected = np.array(encoding.candidate_vectors(model, rows))
    found = model.candidate_vectors()
    np.testing.assert_array_equal(found, expected)
    users = np.array([1, 2, 3], "int32")
    ratings = np.ones(3, "float32")
    model.fit(users, {"movie_id": users, "rating": ratings}, verbose=0)
    np.testing.assert_array_equal(found, expected)
    again = model.candidate_vectors()
    np.testing.assert_array_equal(
        again, encoding.candidate_vectors(model, rows)
    )
    assert (np.asarray(again) != expected).any()


def test_other_numbers_of_users_are_answered_without_compiling():
    with compiled_programs() as compiled:
        model = with_histories()
        ids, scores = model.recommend(np.arange(1, 9), k=5)
        vectors = model.encode_users(np.arange(1, 9))
        assert compiled
        compiled.clear()
        for size in (5, 6, 7):
            some = model.recommend(np.arange(1, 1 + size), k=5)
            np.testing.assert_array_equal(some[0], ids[:size])
            np.testing.assert_array_equal(some[1], scores[:size])
            np.testing.assert_array_equal(
                model.encode_users(np.arange(1, 1 + size)), vectors[:size]
            )
        assert not compiled
