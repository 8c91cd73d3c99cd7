"""Models whose users come with their histories, as streamed data has them."""

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from tests.test_streamed_training import OPTIONS, write_interactions

MAX_HISTORY = 6
# Dropout draws other numbers for other shapes.
STILL = {"item_dropout": 0.0, "query_dropout": 0.0, "seed": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_interactions(tmp_path_factory.mktemp("data") / "d")


@pytest.fixture(scope="module")
def streamed(folder):
    return kdr.RetrievalDataset.from_parquet(
        folder, streaming=True, max_history=MAX_HISTORY, **OPTIONS
    )


def tower_of(data, kind="ids", **options):
    options = {**STILL, **options}
    if kind == "recency":
        return kdr.RecencyTower(data.num_candidates, 4, **options)
    return kdr.IdHistoryTower(data.num_users, data.num_candidates, 4, **options)


def model_of(data, tower, objective="in_batch_softmax", **options):
    keras.utils.set_random_seed(0)
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, 4, user_tower=tower, objective=objective, **options
    )
    model.compile(keras.optimizers.Adagrad(0.5), steps_per_execution=4)
    return model


@pytest.fixture(scope="module")
def model(streamed):
    keras.distribution.set_distribution(None)
    made = model_of(streamed, tower_of(streamed))
    streamed.start_at(0)
    made.fit(streamed.train, epochs=2, verbose=0)
    return made


def as_arrays(data, epoch):
    """The real rows of an epoch, in its order."""
    data.start_at_epoch(epoch)
    batches = [
        keras.tree.map_structure(lambda rows, w=w: rows[w > 0], (x, y))
        for x, y, w in data.batches("train").numpy_groups(1)
    ]
    return keras.tree.map_structure(
        lambda *rows: np.concatenate(rows), *batches
    )


def assert_same_weights(one, other, **tolerance):
    for weight, same in zip(
        one.get_weights(), other.get_weights(), strict=True
    ):
        np.testing.assert_allclose(weight, same, **tolerance)


def test_streamed_histories_teach_what_the_same_arrays_teach(
    model, streamed, on_devices
):
    on_devices(3)  # And `model` is of one device.
    other = model_of(streamed, tower_of(streamed))
    for epoch in range(2):
        x, y = as_arrays(streamed, epoch)
        assert (x["history"] > 0).any()
        other.fit(x, y, batch_size=60, shuffle=False, verbose=0)
    assert model.histories is None
    assert_same_weights(model, other, atol=1e-5)


@pytest.mark.parametrize(
    "split", [pytest.param("validation", marks=pytest.mark.slow), "test"]
)
def test_evaluation_gives_the_histories_of_before_the_split(
    model, streamed, folder, split
):
    """Those of a model that stores the train part are known in validation."""
    fractions = {"validation_fraction": 0.0} if split == "test" else {}
    with pytest.warns(match="also in the train part"):
        data = kdr.RetrievalDataset.from_parquet(
            folder, split="by_time", **OPTIONS, **fractions
        )
    stored = model_of(data, tower_of(data, max_length=MAX_HISTORY))
    stored.build()
    for mine, trained in zip(
        stored.trainable_weights, model.trainable_weights, strict=True
    ):
        mine.assign(trained)
    stored.absent_candidates.assign(model.absent_candidates)
    expected = kdr.evaluate(stored, data, split, max_users=25, seed=1)
    found = kdr.evaluate(model, streamed, split, max_users=25, seed=1)
    for name in ("popularity_percentile_at_10", "popularity_percentile_at_20"):
        del expected[name], found[name]  # Of what is popular in the train part.
    assert found == pytest.approx(expected)
    # It makes a difference that the histories are there.
    seen = streamed.of_some_users(split, 25, 1).seen_before(split)
    assert (np.diff(seen.indptr) > MAX_HISTORY).any()


def test_a_saved_model_asks_for_histories_still(model, streamed, tmp_path):
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    assert loaded.needs_histories
    users, histories = [5, 6], [[0, 2, 4], [10]]
    vectors = model.encode_users(users, histories=histories)
    for question in (
        {"histories": histories},
        {"user_ids": users, "histories": histories},
    ):
        before, after = (
            model.recommend(**question),
            loaded.recommend(**question),
        )
        np.testing.assert_array_equal(before[0], after[0])
        np.testing.assert_allclose(before[1], after[1], rtol=1e-6)
        assert not {0, 2, 4} & set(after[0][0].tolist())  # Seen.
    rows = streamed.user_vocabulary.rows(users)
    candidates = streamed.candidate_vocabulary
    history = np.stack(
        [
            [*candidates.rows([0, 2, 4]), -1],
            [*candidates.rows([10]), -1, -1, -1],
        ]
    )
    outputs = loaded.predict({"user_id": rows, "history": history}, verbose=0)
    np.testing.assert_allclose(outputs["user_embeddings"], vectors, rtol=1e-5)
    assert not np.allclose(
        vectors, loaded.encode_users(histories=histories), atol=1e-3
    )


def test_users_without_their_histories_are_refused(model, streamed):
    rows = np.array([1, 2])
    for use in (
        lambda: model.recommend([5, 6]),
        lambda: model.encode_users([5, 6]),
        lambda: model.predict(rows, verbose=0),
        lambda: model(rows),
        lambda: model.fit(rows, {"candidate_id": rows}),
        lambda: model.fit({"user_id": rows}, {"candidate_id": rows}),
    ):
        with pytest.raises(ValueError, match=r"`histories=`.*in memory stores"):
            use()
    for histories, message in (
        ([[1, 99], [1, 2]], r"Candidate ids must be from 0"),
        ([[1, -1], [-1, 2]], r"at the end alone.*row 1"),
        ([1, 2], r"Histories must have the shape"),
    ):
        x = {"user_id": rows, "history": np.array(histories)}
        with pytest.raises(ValueError, match=message):
            model.fit(x, {"candidate_id": rows}, verbose=0)
    with pytest.raises(ValueError, match=r"list for each of `user_ids`"):
        model.recommend([5, 6], histories=[[2]])


def test_a_tower_reads_the_latest_of_longer_histories(streamed):
    model = model_of(streamed, tower_of(streamed, max_length=2))
    model.build()  # Before it saw a batch.
    longer = np.array([[3, 4, 5, -1], [6, -1, -1, -1], [1, 2, 3, 4]])
    latest = np.array([[4, 5], [6, -1], [3, 4]])
    rows = np.array([1, 2, 3])
    np.testing.assert_array_equal(
        model.user_vectors({"user_id": rows, "history": longer}),
        model.user_vectors({"user_id": rows, "history": latest}),
    )


@pytest.mark.parametrize(
    "objective",
    ["in_batch_softmax", pytest.param("full_softmax", marks=pytest.mark.slow)],
)
def test_what_is_in_the_history_is_no_negative(streamed, objective):
    model = model_of(streamed, tower_of(streamed), objective)
    competes = np.arange(streamed.num_candidates) > 0
    model.candidate_counts.assign(competes)

    def loss(histories):
        x = {"user_id": np.array([4, 5]), "history": np.array(histories)}
        y = {"candidate_id": np.array([6, 7])}
        return model.evaluate(x, y, batch_size=2, verbose=0)

    free, masked = loss([[1, 2], [3, -1]]), loss([[7, 1], [6, -1]])
    if objective == "in_batch_softmax":  # The other's positive was all.
        assert free > 0 and masked == pytest.approx(0)
        return
    rows = np.flatnonzero(competes)
    assert free > 1 and loss([rows[rows != 6], rows[rows != 7]]) < 1e-6


@pytest.mark.slow
def test_towers_of_features_read_given_histories(streamed):
    features = {
        "candidate_id": streamed.user_vocabulary.ids,
        "group": [f"g{i % 3}" for i in streamed.user_vocabulary.ids],
    }
    given = {**features, "user_id": features.pop("candidate_id")}
    whole = kdr.RetrievalDataset.from_interactions(
        streamed.user_vocabulary.ids,
        np.arange(len(streamed.user_vocabulary.ids)) % 50,
        user_features={key: given[key] for key in ("user_id", "group")},
        test_fraction=0.0,
        validation_fraction=0.0,
    )
    lookup = kdr.FeatureLookup.from_features(whole.user_features)
    tower = kdr.FeatureTower(
        whole.user_features,
        4,
        history=tower_of(streamed, "recency"),
    )
    model = model_of(streamed, tower, user_features=lookup)
    streamed.start_at(0)
    losses = model.fit(streamed.train, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    metrics = kdr.evaluate(model, streamed, max_users=20)
    assert metrics["num_users"] == 20
    ids, _ = model.recommend(
        histories=[[2, 4]], user_features={"group": ["g1"]}, k=3
    )
    assert ids.shape == (1, 3)


@pytest.mark.slow
def test_a_model_of_ids_alone_takes_the_same_batches(streamed, folder):
    without = kdr.RetrievalDataset.from_parquet(
        folder, streaming=True, **OPTIONS
    )
    streamed.start_at(0)
    models = [model_of(data, None) for data in (streamed, without)]
    for data, model in zip((streamed, without), models, strict=True):
        model.compile(keras.optimizers.Adagrad(0.5))
        model.objective.mask_known_positives = False
        model.fit(data.train, verbose=0)
    assert_same_weights(*models)


@pytest.mark.slow
def test_a_request_may_come_without_what_the_model_does_not_know(model):
    user, items = model.user_vocabulary.ids[0], model.candidate_vocabulary.ids
    had = [items[:2].tolist(), [*items[2:4].tolist(), 10**6], [10**6], []]
    ids, scores, info = model.recommend(
        [user, 10**6, 10**6, user],
        k=4,
        histories=had,
        unknown="popular",
        return_info=True,
    )
    assert info["source"].tolist() == ["model", "history", "popular", "model"]
    assert info["num_unknown"].tolist() == [0, 2, 2, 0]
    by_id = model.recommend([user, user], k=4, histories=[had[0], []])
    np.testing.assert_array_equal(ids[[0, 3]], by_id[0])
    np.testing.assert_allclose(scores[[0, 3]], by_id[1], rtol=1e-5)
    by_history = model.recommend(k=4, histories=[had[1][:2]])
    np.testing.assert_array_equal(ids[1], by_history[0][0])
    # Without histories, they are taken to have had nothing.
    alone, _ = model.recommend([user, 10**6], k=4, unknown="popular")
    np.testing.assert_array_equal(alone, ids[[3, 2]])
    assert model.recommend([], k=4, unknown="popular")[0].shape == (0, 4)
