import keras
import numpy as np
import pytest
from keras import ops

import keras_dp_retrieval as kdr
from keras_dp_retrieval.data.batch_sources import source_of
from keras_dp_retrieval.data.interactions import Interactions
from keras_dp_retrieval.model import encoding
from keras_dp_retrieval.towers.history_sums import pool

HISTORIES = np.array([[1, 2, 3, -1], [4, -1, -1, -1], [-1, -1, -1, -1]])


def item_vectors(tower):
    return ops.convert_to_numpy(tower.items.embeddings)


def test_id_history_tower_adds_the_pooled_history_to_the_id():
    tower = kdr.IdHistoryTower(5, 6, 3)
    ids = ops.convert_to_numpy(tower.ids.embeddings)
    items = item_vectors(tower)
    got = tower((np.array([2, 0, 4]), HISTORIES))
    expected = [
        ids[2] + items[[1, 2, 3]].sum(axis=0) / np.sqrt(3),
        items[4],  # Row 0 is nobody: the history alone.
        ids[4],
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_recency_tower_weighs_by_age():
    tower = kdr.RecencyTower(6, 3, decays=(0.0, 0.5, 1.0), max_length=4)
    for number, projection in enumerate(tower.projections):
        projection.assign(np.eye(3) * 10**number)
    items = item_vectors(tower)
    got = ops.convert_to_numpy(tower((np.zeros(3, int), HISTORIES)))
    fading = items[1] * 0.25 + items[2] * 0.5 + items[3]
    expected = (
        items[3]  # Decay 0 is the latest item alone.
        + 10 * fading / 1.75
        + 100 * items[[1, 2, 3]].mean(axis=0)
    )
    np.testing.assert_allclose(got[0], expected, rtol=1e-4)
    np.testing.assert_allclose(got[1], 111 * items[4], rtol=1e-4)
    np.testing.assert_array_equal(got[2], 0)  # Nothing is known.


def test_order_matters_to_the_recency_tower_alone():
    forwards, backwards = np.array([[1, 2, 3]]), np.array([[3, 2, 1]])
    nobody = np.zeros(1, int)
    bag, memory = kdr.IdHistoryTower(5, 6, 3), kdr.RecencyTower(6, 3)
    np.testing.assert_allclose(
        bag((nobody, forwards)), bag((nobody, backwards)), rtol=1e-5
    )
    difference = memory((nobody, forwards)) - memory((nobody, backwards))
    assert np.abs(difference).max() > 1e-3


@pytest.mark.parametrize("num_rows", [40, 4000])
def test_both_ways_to_pool_are_the_plain_sum(num_rows):
    # A small table is multiplied whole, a large one looked up.
    rng = np.random.default_rng(0)
    table = kdr.RowEmbedding(num_rows, 5)
    table.build()
    histories = rng.integers(-1, 40, (7, 9))
    weights = rng.random((7, 9)) * (histories >= 0)
    got = pool(table, histories, weights.astype("float32"))
    vectors = ops.convert_to_numpy(table.embeddings)
    expected = [
        sum(w * vectors[row] for w, row in zip(ws, rows, strict=True))
        for ws, rows in zip(weights, histories, strict=True)
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("decays", "message"),
    [
        (5, "at least one number: a list.*Received: decays=5"),
        (None, "at least one number: a list.*Received: decays=None"),
        ("0.5", "at least one number: a list.*Received: decays='0.5'"),
        ([], r"at least one number.*Received: decays=\[\]"),
        ([0.5, 2], "finite number in .*Received: decays=2"),
    ],
)
def test_decays_are_a_list_of_numbers(decays, message):
    with pytest.raises(ValueError, match=message):
        kdr.RecencyTower(6, 3, decays=decays)
    tower = kdr.RecencyTower(6, 3, decays=np.array([0.5, 1.0]))
    assert tower.decays == [0.5, 1.0]


def test_dropout_is_of_training_alone():
    tower = kdr.IdHistoryTower(5, 6, 3, item_dropout=0.5, seed=1)
    inputs = (np.array([2]), HISTORIES[:1])
    calm = [np.asarray(tower(inputs)) for _ in range(2)]
    wild = [np.asarray(tower(inputs, training=True)) for _ in range(2)]
    np.testing.assert_array_equal(*calm)
    assert np.abs(wild[0] - wild[1]).max() > 0


# Histories


@pytest.fixture
def histories():
    # User 1 had 3, 4, 5; user 2 nothing; user 3 had 6.
    interactions = Interactions(
        np.array([0, 0, 3, 3, 4]), np.array([3, 4, 5, 6])
    )
    return kdr.Histories.from_interactions(interactions)


def test_histories_are_looked_up_oldest_first(histories):
    got = histories(np.array([1, 2, 3]))
    np.testing.assert_array_equal(got, [[3, 4, 5], [-1] * 3, [6, -1, -1]])


def test_the_latest_are_kept(histories):
    got = histories(np.array([1, 3]), max_length=2)
    np.testing.assert_array_equal(got, [[4, 5], [6, -1]])


def test_a_prefix_is_what_was_known_by_then(histories):
    rows, lengths = np.array([1, 1, 1]), np.array([0, 2, 9])
    got = histories(rows, lengths=lengths, max_length=2)
    np.testing.assert_array_equal(got, [[-1, -1], [3, 4], [4, 5]])


def test_padded_is_all_there_is(histories):
    got = histories.padded(np.array([3, 1]))
    np.testing.assert_array_equal(got, [[6, -1, -1, -1], [3, 4, 5, -1]])


# In the model


def model_of(tower, histories, **kwargs):
    model = kdr.TwoTowerRetrieval(
        4, 8, 3, user_tower=tower, histories=histories, **kwargs
    )
    model.compile(keras.optimizers.Adagrad(0.1))
    return model


def test_users_by_row_by_prefix_and_by_raw_history_are_one(histories):
    model = model_of(kdr.RecencyTower(8, 3), histories)
    by_row = model.user_vectors(np.array([1]))
    by_prefix = model.user_vectors(
        {"user_id": np.array([1]), "length": np.array([3])}
    )
    np.testing.assert_allclose(by_prefix, by_row, rtol=1e-6)
    by_history = model.encode_users(histories=[[3, 4, 5]])
    np.testing.assert_allclose(by_history, by_row, rtol=1e-6)
    ids, scores = model.recommend([1], k=7)
    from_raw = model.recommend(histories=[[3, 4, 5]], k=7)
    np.testing.assert_array_equal(from_raw[0], ids)
    np.testing.assert_allclose(from_raw[1], scores, rtol=1e-6)
    assert not set(ids[0]) & {3, 4, 5}


def test_a_long_raw_history_is_cut_to_its_end(histories):
    model = model_of(kdr.RecencyTower(8, 3, max_length=2), histories)
    whole = model.encode_users(histories=[[1, 2, 3, 4], [5]])
    end = model.encode_users(histories=[[3, 4], [5]])
    np.testing.assert_allclose(whole, end, rtol=1e-6)


def test_what_comes_next_is_never_in_the_history_it_is_learned_from():
    timestamps = np.arange(6)
    data = kdr.RetrievalDataset.from_interactions(
        [1, 1, 1, 2, 2, 2],
        [10, 11, 12, 11, 12, 10],
        timestamps=timestamps,
        test_fraction=0,
        validation_fraction=0,
    )
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, 4, user_tower=kdr.RecencyTower(data.num_candidates, 4)
    )
    seen = set()
    for x, y in data.next_items(batch_size=4).as_numpy_iterator():
        _, histories = encoding.with_histories(model, x)
        for user, history, target in zip(
            x["user_id"], np.asarray(histories), y["candidate_id"], strict=True
        ):
            before = tuple(int(row) for row in history[history > 0])
            seen.add((int(user), before, int(target)))
    assert seen == {
        (1, (1,), 2),
        (1, (1, 2), 3),
        (2, (2,), 3),
        (2, (2, 3), 1),
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ids", "recency"])
def test_history_towers_train_save_and_agree_on_any_devices(
    kind, on_devices, tmp_path
):
    data = kdr.RetrievalDataset.from_synthetic(40, 30, 600, batch_size=50)

    def trained(num_devices):
        keras.utils.clear_session()
        on_devices(num_devices)
        keras.utils.set_random_seed(3)
        shape = data.num_candidates, 6
        tower = (
            kdr.IdHistoryTower(data.num_users, *shape, seed=1)
            if kind == "ids"
            else kdr.RecencyTower(*shape, seed=1)
        )
        model = kdr.TwoTowerRetrieval.for_dataset(
            data, 6, user_tower=tower, objective="full_softmax"
        )
        model.compile(keras.optimizers.Adagrad(0.1))
        examples = data.by_user(16) if kind == "ids" else data.next_items(100)
        source_of(examples).start_at_epoch(0)
        return model, model.fit(examples, epochs=2, verbose=0).history

    one, expected = trained(1)
    eight, got = trained(8)
    np.testing.assert_allclose(got["loss"], expected["loss"], rtol=1e-5)
    ids, _ = one.recommend(data.user_vocabulary.ids, k=5)
    np.testing.assert_array_equal(
        eight.recommend(data.user_vocabulary.ids, k=5)[0], ids
    )
    one.save(tmp_path / "m.keras")
    reloaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(
        reloaded.recommend(data.user_vocabulary.ids, k=5)[0], ids
    )
    a_history = [data.candidate_vocabulary.ids[:3]]
    np.testing.assert_array_equal(
        reloaded.recommend(histories=a_history, k=5)[0],
        one.recommend(histories=a_history, k=5)[0],
    )


def test_histories_of_unknown_candidates_are_refused(histories):
    model = model_of(kdr.RecencyTower(8, 3), histories)
    with pytest.raises(ValueError, match=r"from 0 to 7 .* Received: 99"):
        model.recommend(histories=[[3, 99]])
    with pytest.raises(ValueError, match="Give either"):
        model.recommend()
    plain = kdr.TwoTowerRetrieval(5, 8, 3)
    with pytest.raises(ValueError, match="need a user tower that takes"):
        plain.recommend(histories=[[3]])
    with pytest.raises(ValueError, match=r"Give either.* Received: both"):
        model.recommend([1], histories=[[3]])


@keras.saving.register_keras_serializable(package="test_towers")
class LatestItem(kdr.HistoryTower):
    def __init__(self, num_candidates, embedding_dimension, **kwargs):
        kwargs = {**kwargs, "max_length": 1}
        super().__init__(num_candidates, embedding_dimension, **kwargs)
        self.items = kdr.RowEmbedding(num_candidates, embedding_dimension)

    def call(self, inputs, training=False):
        _, histories = inputs
        return self.items(keras.ops.maximum(histories[:, 0], 0))


def test_a_history_tower_of_ones_own_trains_recommends_and_loads(tmp_path):
    rng = np.random.default_rng(0)
    data = kdr.RetrievalDataset.from_interactions(
        rng.integers(1, 9, 60), rng.integers(1, 7, 60)
    )
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, 4, user_tower=LatestItem(data.num_candidates, 4)
    )
    model.compile("sgd")
    model.fit(data.train, verbose=0)
    histories = [[5, 1], [2, 1], [1, 2]]
    ids, _ = model.recommend(histories=histories, k=2)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    again, _ = loaded.recommend(histories=histories, k=2)
    np.testing.assert_array_equal(again, ids)
    vectors = loaded.encode_users(histories=histories)
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert (vectors[1] != vectors[2]).any()
