"""New users and candidates, and everything learned stays."""

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval.data.interactions import Interactions
from keras_dp_retrieval.data.vocabulary import Vocabulary
from keras_dp_retrieval.towers import IdHistoryTower, RecencyTower
from keras_dp_retrieval.towers.histories import Histories

OLD_MOVIES = ["b", "d", "f", "h"]
NEW_MOVIES = ["a", "é", "c"]


def trained_model(optimizer="adagrad", with_ids=True, **kwargs):
    keras.utils.set_random_seed(1)
    seen = Interactions(np.array([0, 0, 1, 2, 2, 3]), np.array([1, 2, 3]))
    model = kdr.TwoTowerRetrieval(
        5,
        5,
        4,
        histories=Histories.from_interactions(seen),
        **{"objective": "rating", **kwargs},
    )
    if with_ids:
        model.user_vocabulary = Vocabulary.from_ids([10, 20, 30, 40])
        model.candidate_vocabulary = Vocabulary.from_ids(OLD_MOVIES)
    model.compile(keras.optimizers.get(optimizer))
    train(model, 5, 5)
    return model


def train(model, num_users, num_candidates):
    rng = np.random.default_rng(0)
    x = rng.integers(1, num_users, 24)
    y = {
        "movie_id": rng.integers(1, num_candidates, 24),
        "rating": rng.random(24).astype("float32"),
    }
    return model.fit(x, y, batch_size=8, shuffle=False, verbose=0).history[
        "loss"
    ]


def grown(model, with_vectors=False):
    if with_vectors:
        vectors = np.random.default_rng(0).normal(size=(3, 4))
        model.add_users([35, 5])
        model.add_candidates(NEW_MOVIES, vectors)
    elif model.user_vocabulary is None:
        model.add_users(2)
        model.add_candidates(3)
    else:
        model.add_users([35, 5])
        model.add_candidates(NEW_MOVIES)
    return model


def test_what_was_known_is_recommended_as_before():
    model = trained_model()
    users = [10, 20, 30, 40]
    before = model.recommend(users, k=4)
    ids, scores = grown(model, with_vectors=True).recommend(users, k=7)
    for row, (row_ids, row_scores) in enumerate(zip(ids, scores, strict=True)):
        old = np.isin(row_ids, OLD_MOVIES)
        known = before[0][row] != ""
        assert row_ids[old].tolist() == before[0][row][known].tolist()
        np.testing.assert_allclose(
            row_scores[old], before[1][row][known], rtol=1e-6, atol=1e-8
        )
        assert set(row_ids[~old]) - {""} == set(NEW_MOVIES)


def test_new_ids_are_known_and_have_had_nothing():
    model = grown(trained_model())
    assert (model.num_users, model.num_candidates) == (7, 8)
    # What has no vector but noise waits until it is trained.
    assert sorted(model.recommend([5], k=4)[0][0]) == OLD_MOVIES
    assert set(model.recommend([5], k=7)[0][0]) == {*OLD_MOVIES, ""}
    np.testing.assert_array_equal(model.candidate_counts[5:], 0)
    assert np.sum(model.candidate_counts) == 24
    np.testing.assert_array_equal(
        model.histories(np.arange(7))[:, 0], [-1, 1, 2, -1, 3, -1, -1]
    )


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.optimizers.Adagrad(0.1),
        keras.optimizers.AdamW(0.1, amsgrad=True),
        keras.optimizers.Adam(0.1, use_ema=True),
        keras.optimizers.Ftrl(0.1),
        keras.optimizers.Adafactor(0.1),
    ],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_slots_are_kept_and_those_of_new_rows_begin_anew(optimizer):
    optimizer = keras.optimizers.deserialize(
        keras.optimizers.serialize(optimizer)
    )
    model = trained_model(optimizer)
    before = [np.array(v.numpy()) for v in optimizer.variables]
    grown(model)
    fresh = type(optimizer).from_config(optimizer.get_config())
    fresh.build(model.trainable_variables)
    averages = getattr(optimizer, "_model_variables_moving_average", [])
    num_grown = 0
    for old, slot, start in zip(
        before, optimizer.variables, fresh.variables, strict=True
    ):
        value = slot.numpy()
        num_grown += value.shape != old.shape
        if old.ndim == 0:
            assert value == old
            continue
        rows = old.shape[0]
        np.testing.assert_array_equal(value[:rows], old)
        is_average = any(slot is average for average in averages)
        if not is_average:
            np.testing.assert_array_equal(value[rows:], start.numpy()[rows:])
    for average, variable in zip(
        averages, model.trainable_variables, strict=bool(averages)
    ):
        np.testing.assert_array_equal(average[5:], variable[5:])
    assert num_grown >= 2


@pytest.mark.parametrize("with_ids", [True, False])
def test_a_grown_model_trains_and_comes_back(tmp_path, with_ids):
    model = grown(trained_model("adamw", with_ids))
    before = model.encode_candidates(NEW_MOVIES if with_ids else [5, 6, 7])
    assert len(model.retrievable_ids()) == 4
    losses = train(model, 7, 8)
    assert len(model.retrievable_ids()) == 7
    after = model.encode_candidates(NEW_MOVIES if with_ids else [5, 6, 7])
    assert np.isfinite(losses).all() and (before != after).all()
    model.save(tmp_path / "m.keras")
    reloaded = kdr.TwoTowerRetrieval.load(tmp_path / "m.keras")
    users = [5, 10, 35] if with_ids else [5, 1, 6]
    for one, other in zip(
        model.recommend(users, k=7), reloaded.recommend(users, k=7), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert train(model, 7, 8) == train(reloaded, 7, 8)


@pytest.mark.slow
def test_eight_devices_grow_as_one_does(on_devices):
    results = []
    for count in (1, 8):
        keras.utils.clear_session()
        on_devices(count)
        model = grown(trained_model())
        loss = train(model, 7, 8)
        results.append((loss, *model.recommend([5, 10], k=7)))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)
    np.testing.assert_array_equal(results[0][1], results[1][1])
    np.testing.assert_allclose(results[0][2], results[1][2], atol=1e-6)


def test_row_sparse_steps_train_the_new_rows():
    model = grown(trained_model(embedding_updates="row_sparse"))
    dense = grown(trained_model(embedding_updates="dense"))
    np.testing.assert_allclose(train(model, 7, 8), train(dense, 7, 8), 1e-6)
    for one, other in zip(
        model.get_weights(), dense.get_weights(), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_new_candidates_may_begin_where_they_are_told():
    model = trained_model()
    vectors = np.arange(12, dtype="float32").reshape(3, 4)
    model.add_candidates(NEW_MOVIES, vectors)
    np.testing.assert_array_equal(model.encode_candidates(NEW_MOVIES), vectors)


def test_rows_are_drawn_as_the_table_draws_them():
    def new_rows(seed):
        model = kdr.TwoTowerRetrieval(5, 5, 64, objective="rating")
        model.add_candidates(200, seed=seed)
        model.add_candidates(200, seed=seed)
        return model.encode_candidates(np.arange(5, 405))

    first = new_rows(0)
    np.testing.assert_array_equal(first, new_rows(0))
    assert (first != new_rows(1)).any()
    assert len(np.unique(first, axis=0)) == 400
    # Keras' "uniform": from -0.05 to 0.05.
    assert np.abs(first).max() <= 0.05
    assert first.std() == pytest.approx(0.1 / np.sqrt(12), rel=0.05)


@pytest.mark.slow
def test_tables_inside_a_stack_of_layers_grow(tmp_path):
    model = kdr.TwoTowerRetrieval(
        6,
        5,
        4,
        objective="rating",
        candidate_tower=keras.Sequential(
            [kdr.RowEmbedding(5, 4), keras.layers.Dense(4)]
        ),
        user_tower=keras.Sequential(
            [kdr.RowEmbedding(6, 3), keras.layers.Dense(4)]
        ),
    )
    model.compile("adagrad")
    train(model, 6, 5)
    model.add_users(1)
    model.add_candidates(2)
    assert np.isfinite(train(model, 7, 7)).all()
    model.save(tmp_path / "m.keras")
    reloaded = kdr.TwoTowerRetrieval.load(tmp_path / "m.keras")
    np.testing.assert_array_equal(
        model.recommend([6], k=6)[0], reloaded.recommend([6], k=6)[0]
    )


@pytest.mark.parametrize(
    "kind",
    [pytest.param(IdHistoryTower, marks=pytest.mark.slow), RecencyTower],
)
def test_history_towers_grow_on_both_sides(tmp_path, kind):
    sizes = (6, 5, 4) if kind is IdHistoryTower else (5, 4)
    seen = Interactions(np.array([0, 0, 1, 2, 2, 3, 3]), np.array([1, 2, 3]))
    model = kdr.TwoTowerRetrieval(
        6,
        5,
        4,
        objective="rating",
        user_tower=kind(*sizes, query_dropout=0.0, item_dropout=0.0),
        histories=Histories.from_interactions(seen),
    )
    model.compile("adagrad")
    train(model, 6, 5)
    before = model.encode_users([1, 3, 5])
    model.add_users(2)
    model.add_candidates(3)
    np.testing.assert_allclose(model.encode_users([1, 3, 5]), before, 1e-5)
    assert np.isfinite(train(model, 8, 8)).all()
    model.save(tmp_path / "m.keras")
    reloaded = kdr.TwoTowerRetrieval.load(tmp_path / "m.keras")
    for one, other in zip(
        model.recommend([7, 1], k=7),
        reloaded.recommend([7, 1], k=7),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_tables_that_may_belong_to_either_side_are_not_guessed():
    tower, histories = IdHistoryTower(5, 5, 4), Histories(5, 0, 1)
    model = kdr.TwoTowerRetrieval(
        5, 5, 4, user_tower=tower, histories=histories
    )
    for grow in (model.add_users, model.add_candidates):
        with pytest.raises(ValueError, match="5 users and as many candidates"):
            grow(1)


@pytest.mark.parametrize(
    ("grow", "message"),
    [
        (lambda m: m.add_candidates(["x", "b"]), "1 of them known, .*'b'"),
        (lambda m: m.add_candidates(["x", "x"]), "1 repeated"),
        (lambda m: m.add_candidates([7]), "strings. Received: whole numbers"),
        (lambda m: m.add_users([5, 10]), "1 of them known"),
        (
            lambda m: m.add_candidates(["x"], np.zeros((2, 4))),
            r"shape \(1, 4\). Received: shape \(2, 4\)",
        ),
        (
            lambda m: m.add_candidates(["x"], np.full((1, 4), np.nan)),
            "4 values not finite",
        ),
    ],
)
def test_what_cannot_be_added_changes_nothing(grow, message):
    model = trained_model()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        grow(model)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert model.candidate_vocabulary.num_rows == model.num_candidates == 5


def test_adding_nobody_is_nothing():
    model = trained_model()
    model.add_candidates([])
    model.add_users([])
    assert (model.num_users, model.num_candidates) == (5, 5)


def test_towers_without_a_table_of_rows_are_refused():
    plain = keras.layers.Embedding(5, 4, name="plain")
    model = kdr.TwoTowerRetrieval(5, 6, 4, user_tower=plain)
    with pytest.raises(ValueError, match=r"`add_users` .* 'plain', a Emb"):
        model.add_users(1)
    tower = keras.Sequential([kdr.RowEmbedding(6, 4)])
    model = kdr.TwoTowerRetrieval(5, 6, 4, candidate_tower=tower)
    with pytest.raises(ValueError, match="Leave them out"):
        model.add_candidates(1, np.zeros((1, 4)))
    with pytest.raises(ValueError, match="Give the number of rows"):
        model.add_candidates([7])


class FeatureTable(keras.layers.Layer):
    """A candidate's own vector, and what its features add to it."""

    def __init__(self, is_weight):
        super().__init__()
        self.table = kdr.RowEmbedding(5, 4)
        features = np.eye(5, 3, dtype="float32")
        if is_weight:
            self.features = self.add_weight(
                shape=features.shape, trainable=False, name="features"
            )
            self.features.assign(features)
        else:
            self.features = keras.ops.convert_to_tensor(features)
        self.dense = keras.layers.Dense(4)

    def call(self, rows):
        features = keras.ops.take(self.features, rows, axis=0)
        return self.table(rows) + self.dense(features)


@pytest.mark.parametrize(
    ("is_weight", "message"),
    [
        (True, r"`add_candidates` can grow .*/features' of 'feature_table"),
        (False, "must have a finite vector for each of the new candidates"),
    ],
)
def test_other_tables_by_row_are_refused_and_nothing_changes(
    is_weight, message
):
    model = trained_model(
        candidate_tower=FeatureTable(is_weight), with_ids=False
    )
    variables = [*model.variables, *model.optimizer.variables]
    before = [np.array(variable.numpy()) for variable in variables]
    with pytest.raises(ValueError, match=message):
        model.add_candidates(2)
    for variable, value in zip(variables, before, strict=True):
        assert variable.shape == value.shape
        np.testing.assert_array_equal(variable.numpy(), value)
    assert model.num_candidates == model.candidate_tower.table.input_dim == 5
    assert np.isfinite(train(model, 5, 5)).all()
