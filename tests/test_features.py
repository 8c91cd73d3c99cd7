"""Features in both towers: trained, saved, grown, and asked with."""

import os
import pathlib
import subprocess
import sys

import keras
import keras_rs
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval.data.features import FeatureSchema
from keras_dp_retrieval.data.features.column_encoders import NumericEncoder
from keras_dp_retrieval.model import growth
from keras_dp_retrieval.towers import feature_tower

NUM_USERS, NUM_ITEMS, NUM_COLD = 48, 30, 6


@pytest.fixture(scope="module")
def data():
    """Users like items of their own group; the last six items are cold."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(NUM_USERS), 4)
    items = np.concatenate(
        [
            rng.choice(np.arange(user % 3, NUM_ITEMS, 3), 4, replace=False)
            for user in range(NUM_USERS)
        ]
    )
    every = np.arange(NUM_ITEMS + NUM_COLD)
    return kdr.RetrievalDataset(
        users,
        items,
        np.random.default_rng(1).integers(1, 6, len(users)),
        batch_size=32,
        validation_fraction=0,
        user_features={
            "user_id": np.arange(NUM_USERS),
            "group": [f"g{user % 3}" for user in range(NUM_USERS)],
            "age": rng.normal(40, 10, NUM_USERS),
        },
        candidate_features={
            "item_id": every,
            "group": [f"g{item % 3}" for item in every],
            "tags": [[f"t{item % 3}", f"t{item % 2}"] for item in every],
            "price": rng.normal(9, 2, len(every)),
        },
    )


def trained(data, epochs=12, objective="full_softmax", **options):
    keras.utils.set_random_seed(1)
    data.start_at_epoch(0)
    compile_options = {
        name: options.pop(name)
        for name in ("steps_per_execution", "optimizer")
        if name in options
    }
    compile_options.setdefault("optimizer", keras.optimizers.Adam(0.02))
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, 8, objective=objective, **options
    )
    model.compile(**compile_options)
    model.fit(data.train, epochs=epochs, verbose=0)
    return model


@pytest.fixture(scope="module")
def model(data):
    keras.distribution.set_distribution(None)
    return trained(data)


def of_group(lists, users):
    """The share of items that are of their user's group."""
    return np.mean(lists % 3 == np.asarray(users)[:, None] % 3)


def test_the_default_towers_of_data_with_features_use_them(model):
    assert isinstance(model.user_tower, kdr.FeatureTower)
    assert isinstance(model.candidate_tower, kdr.FeatureTower)


def test_towers_that_know_ids_alone_get_ids(data):
    model = kdr.TwoTowerRetrieval.for_dataset(
        data,
        8,
        user_tower=kdr.IdHistoryTower(data.num_users, data.num_candidates, 8),
        candidate_tower=kdr.RowEmbedding(data.num_candidates, 8),
    )
    assert model.user_features is None and model.candidate_features is None


def test_a_functional_model_over_ids_gets_ids(data):
    ids = keras.Input((), dtype="int32")
    table = keras.layers.Embedding(data.num_candidates, 8)
    tower = keras.Model(ids, keras.layers.Dense(8)(table(ids)))
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, 8, objective="rating", candidate_tower=tower
    )
    assert model.candidate_features is None
    np.testing.assert_allclose(
        model.candidate_vectors(),
        tower(np.arange(data.num_candidates)),
        atol=1e-6,
    )


def test_a_functional_model_over_one_column_gets_the_column(data):
    group = keras.Input((), dtype="int32", name="group")
    tower = keras.Model(group, keras.layers.Embedding(4, 8)(group))
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, 8, objective="rating", candidate_tower=tower
    )
    vectors = model.candidate_vectors()
    np.testing.assert_allclose(
        vectors, tower(data.candidate_features.columns["group"]), atol=1e-6
    )


def test_the_vector_is_the_sum_of_id_values_labels_and_numbers(data):
    encoders = dict(data.candidate_features.schema.encoders)
    encoders["price"] = NumericEncoder(9.0, 2.0, boundaries=[-0.5, 0.5])
    tower = kdr.FeatureTower(
        {"schema": FeatureSchema(encoders), "num_rows": data.num_candidates},
        4,
        seed=0,
    )
    lookup = kdr.FeatureLookup.from_features(data.candidate_features)
    rows = np.array([3, 0, 7])
    vectors = tower({"candidate_id": rows, **lookup(rows)})
    features = data.candidate_features.columns
    bins = np.asarray(tower.bins["price"].embeddings)
    ids, group, tags = (
        np.asarray(table.embeddings)
        for table in (tower.ids, tower.tables["group"], tower.tables["tags"])
    )
    expected = np.zeros((3, 4), "float32")
    for number, row in enumerate(rows):
        if row:
            expected[number] += ids[row] + group[features["group"][row]]
        for label in features["tags"][row]:
            expected[number] += tags[label] if label else 0
        price = features["price"][row]
        expected[number] += price * np.asarray(tower.number_vectors[0])
        expected[number] += bins[np.searchsorted([-0.5, 0.5], price)]
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("combiner", feature_tower.COMBINERS)
def test_a_pooled_row_embedding_is_an_embed_reduce(combiner):
    rng = np.random.default_rng(0)
    reduce = keras_rs.layers.EmbedReduce(9, 4, combiner=combiner)
    reduce.build()
    table = kdr.RowEmbedding(9, 4)
    table.build()
    table.set_weights(reduce.get_weights())
    indices = rng.integers(0, 9, (5, 3))
    indices[2] = 0  # A row without any.
    present = (indices > 0).astype("float32")
    ours = feature_tower.combine(table(indices), present, combiner)
    theirs = reduce(indices, weights=present)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    by_product = feature_tower.combine_all(
        reduce.embeddings, indices, present, combiner
    )
    np.testing.assert_allclose(by_product, theirs, atol=1e-7)


def test_large_vocabularies_are_updated_by_row(data, monkeypatch):
    small = kdr.FeatureTower(data.candidate_features, 4, seed=0)
    monkeypatch.setattr(feature_tower, "LARGE_VOCABULARY", 1)
    large = kdr.FeatureTower(data.candidate_features, 4, seed=0)
    assert isinstance(small.tables["tags"], keras_rs.layers.EmbedReduce)
    assert isinstance(large.tables["tags"], kdr.RowEmbedding)
    large.set_weights(small.get_weights())
    lookup = kdr.FeatureLookup.from_features(data.candidate_features)
    rows = np.arange(data.num_candidates)
    inputs = {"candidate_id": rows, **lookup(rows)}
    np.testing.assert_allclose(large(inputs), small(inputs), atol=1e-6)
    monkeypatch.setattr(feature_tower, "SMALL_VOCABULARY", 0)
    np.testing.assert_allclose(small(inputs), large(inputs), rtol=1e-6)


def test_dropped_ids_are_as_unknown_ones(data):
    tower = kdr.FeatureTower(data.user_features, 4, id_dropout=1.0)
    columns = kdr.FeatureLookup.from_features(data.user_features)(
        np.array([5, 9])
    )
    known = {"user_id": np.array([5, 9]), **columns}
    unknown = {"user_id": np.array([0, 0]), **columns}
    dropped = tower(known, training=True)
    np.testing.assert_allclose(dropped, tower(unknown), rtol=1e-6)
    assert np.abs(tower(known) - dropped).max() > 1e-4


@pytest.mark.slow
def test_a_network_begins_as_the_linear_tower_and_is_trained(data):
    rows = np.arange(1, 9)
    columns = kdr.FeatureLookup.from_features(data.user_features)(rows)
    inputs = {"user_id": rows, **columns}
    deep = kdr.FeatureTower(
        data.user_features, 4, hidden=(6,), num_crosses=2, seed=3
    )
    linear = kdr.FeatureTower(data.user_features, 4, seed=3)
    np.testing.assert_allclose(deep(inputs), linear(inputs), rtol=1e-6)
    model = trained(data, epochs=3, user_tower=deep_tower(data))
    first = model.user_tower.crosses[0].dense.kernel
    before = deep_tower(data).crosses[0].dense.kernel
    assert np.abs(np.asarray(first) - np.asarray(before)).max() > 1e-3


def deep_tower(data):
    keras.utils.set_random_seed(5)
    return kdr.FeatureTower(
        data.user_features, 8, hidden=(6,), num_crosses=1, seed=3
    )


OBJECTIVES = {
    "rating": lambda: "rating",
    "full_softmax": lambda: kdr.FullSoftmax(0.2),
    "chunked": lambda: kdr.FullSoftmax(0.2, chunk_size=7),
    "in_batch_softmax": lambda: kdr.InBatchSoftmax(0.2),
}


def towers(data):
    history = kdr.RecencyTower(data.num_candidates, 8, max_length=4, seed=2)
    return {
        "user_tower": kdr.FeatureTower(
            data.user_features, 8, history=history, hidden=(4,), seed=3
        ),
        "candidate_tower": kdr.FeatureTower(
            data.candidate_features, 8, id_dropout=0.3, seed=4
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize("updates", ["dense", "row_sparse"])
@pytest.mark.parametrize("objective", [*OBJECTIVES])
def test_four_devices_learn_what_one_learns(
    data, on_devices, objective, updates
):
    def vectors(num_devices, **options):
        on_devices(num_devices)
        model = trained(
            data,
            epochs=2,
            objective=OBJECTIVES[objective](),
            embedding_updates=updates,
            optimizer=keras.optimizers.Adagrad(0.1),
            **towers(data),
            **options,
        )
        return model.encode_users(np.arange(9)), model.encode_candidates()

    one = vectors(1)
    for four in (vectors(4), vectors(4, steps_per_execution=3)):
        for before, after in zip(one, four, strict=True):
            np.testing.assert_allclose(after, before, atol=1e-5)


@pytest.mark.parametrize(
    "objective",
    [
        pytest.param("full_softmax", marks=pytest.mark.slow),
        "in_batch_softmax",
    ],
)
@pytest.mark.slow
def test_row_sparse_steps_are_dense_steps(data, objective, monkeypatch):
    # All pooled tables by row, too.
    monkeypatch.setattr(feature_tower, "LARGE_VOCABULARY", 1)
    dense, sparse = (
        trained(
            data,
            epochs=2,
            objective=OBJECTIVES[objective](),
            embedding_updates=updates,
            optimizer=keras.optimizers.Adagrad(0.1),
            **towers(data),
        ).get_weights()
        for updates in ("dense", "row_sparse")
    )
    for one, other in zip(dense, sparse, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5)


def test_cold_items_are_retrieved_by_their_features(data, model):
    users = np.arange(NUM_USERS)
    lists, scores = model.recommend(users, k=NUM_ITEMS + NUM_COLD)
    assert np.isin(np.arange(NUM_ITEMS, NUM_ITEMS + NUM_COLD), lists).all()
    cold = np.where((lists >= NUM_ITEMS) & np.isfinite(scores), scores, -np.inf)
    best = np.take_along_axis(lists, np.argsort(-cold, 1)[:, :2], 1)
    assert of_group(best, users) > 0.9


def test_items_of_which_nothing_is_known_are_not(data):
    fewer = kdr.RetrievalDataset(
        data.user_vocabulary.raw_ids(data.ratings("train").user_rows),
        data.candidate_vocabulary.raw_ids(data.ratings("train").candidate_rows),
        test=([0], [99]),  # Neither trained on nor with features.
        validation_fraction=0,
        candidate_features={"item_id": [30], "group": ["g0"]},
    )
    model = kdr.TwoTowerRetrieval.for_dataset(fewer, 4)
    retrievable = model.retrievable_ids().tolist()
    assert 99 not in retrievable and 30 in retrievable


@pytest.mark.slow
def test_a_saved_model_answers_and_goes_on_the_same(data, tmp_path):
    model = trained(data, epochs=2, **towers(data))
    model.build_index()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    question = {"user_features": {"group": ["g1"], "age": [30]}, "k": 5}
    for one in ({"user_ids": [3, 4]}, question):
        before, after = model.recommend(**one), loaded.recommend(**one)
        np.testing.assert_array_equal(before[0], after[0])
        np.testing.assert_allclose(before[1], after[1], rtol=1e-6)
    for one in (model, loaded):
        one.fit(data.by_user(16), epochs=1, verbose=0)
    for before, after in zip(
        model.get_weights(), loaded.get_weights(), strict=True
    ):
        np.testing.assert_allclose(after, before, atol=1e-6)


def functional_tower(data):
    group = keras.Input((), name="group", dtype="int32")
    price = keras.Input((), name="price")
    vectors = keras.layers.Embedding(4, 8)(group) + keras.layers.Dense(8)(
        keras.ops.expand_dims(price, -1)
    )
    return keras.Model({"group": group, "price": price}, vectors)


def test_a_functional_model_is_a_candidate_tower(data, tmp_path):
    model = trained(data, candidate_tower=functional_tower(data))
    users = np.arange(NUM_USERS)
    lists = model.recommend(users, k=3)[0]
    assert of_group(lists, users) > 0.8
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.recommend(users, k=3)[0], lists)


@keras.saving.register_keras_serializable(package="tests")
class Projected(keras.layers.Layer):
    """A tower of features with a layer behind it."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner
        self.projection = keras.layers.Dense(8)
        self.projection.build((None, inner.embedding_dimension))
        self.built = True

    def call(self, inputs, training=False):
        return self.projection(self.inner(inputs, training=training))

    def get_config(self):
        inner = keras.saving.serialize_keras_object(self.inner)
        return {**super().get_config(), "inner": inner}

    @classmethod
    def from_config(cls, config):
        inner = keras.saving.deserialize_keras_object(config.pop("inner"))
        return cls(inner, **config)


@pytest.mark.slow
def test_a_feature_tower_inside_another_layer_grows_with_it(data, tmp_path):
    model = kdr.TwoTowerRetrieval.for_dataset(
        data,
        8,
        user_tower=Projected(kdr.FeatureTower(data.user_features, 4)),
        candidate_tower=Projected(kdr.FeatureTower(data.candidate_features, 4)),
    )
    model.add_candidates([100, 101], features={"group": ["g1", "g0"]})
    model.add_users([100], features={"group": ["g1"]})
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    vectors = model.candidate_vectors()
    assert vectors.shape == (model.num_candidates, 8)
    np.testing.assert_array_equal(loaded.candidate_vectors(), vectors)
    np.testing.assert_array_equal(
        loaded.encode_users([3, 100]), model.encode_users([3, 100])
    )


def test_a_functional_model_with_other_inputs_is_refused(data):
    colour = keras.Input((), name="colour")
    tower = keras.Model(
        {"colour": colour}, keras.layers.Dense(8)(colour[:, None])
    )
    model = kdr.TwoTowerRetrieval.for_dataset(data, 8, candidate_tower=tower)
    with pytest.raises(ValueError, match=r"Received others: \['colour'\]"):
        model.build()


@pytest.mark.slow
def test_added_candidates_are_retrievable_at_once(data):
    model = trained(data)
    users = np.arange(NUM_USERS)
    before = model.encode_candidates([5, 31])
    model.add_candidates(
        [100, 101],
        features={
            "item_id": [101, 100],  # In any order: there are ids.
            "group": ["g1", "g0"],
            "tags": [["t1", "t0", "t2"], ["t0"]],  # Wider than any before.
            "price": [9.0, None],
        },
    )
    np.testing.assert_allclose(model.encode_candidates([5, 31]), before)
    lists, _ = model.recommend(users, k=12)
    for item, group in ((100, 0), (101, 1)):
        found = (lists == item).any(axis=1)
        # 12 of 38 items: by chance a list has it at 0.32.
        assert found[group::3].mean() > 0.6 > found[group + 1 :: 3].mean()
    model.fit(data.train, epochs=1, verbose=0)  # It goes on.


def test_an_added_candidate_is_what_it_would_have_been(data):
    model = trained(data)
    # Candidate 31 is cold: its vector is that of its features.
    features = {
        "group": ["g1"],
        "tags": [["t1", f"t{31 % 2}"]],
        "price": [data.raw_features("candidate").columns["price"][31]],
    }
    tower = model.candidate_tower
    tower.ids.embeddings.assign(tower.ids.embeddings * 0)
    model.add_candidates([200], features=features)
    tower.ids.embeddings.assign(tower.ids.embeddings * 0)
    new, old = model.encode_candidates([200, 31])
    np.testing.assert_allclose(new, old, rtol=1e-5)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"colour": ["red"]}, r"columns that were trained with: \['group'"),
        ({"group": ["g1", "g2"]}, "one row for each of the 1 candidates"),
        ({"item_id": [7], "group": ["g1"]}, "a row for each id. Missing: 300"),
        ({"price": ["dear"]}, "'price' must hold numbers"),
    ],
)
def test_features_that_do_not_fit_change_nothing(data, features, message):
    model = trained(data, epochs=1)
    before = model.num_candidates, model.encode_candidates()
    with pytest.raises(ValueError, match=message):
        model.add_candidates([300], features=features)
    assert model.num_candidates == before[0]
    np.testing.assert_array_equal(model.encode_candidates(), before[1])


def test_growth_that_fails_at_the_end_takes_features_back(data, monkeypatch):
    model = trained(data, epochs=1)
    features, tower = model.candidate_features, model.candidate_tower
    before = model.recommend([1, 2], k=5)

    def sizes():
        shapes = [tuple(one.shape) for one in features.weights]
        widths = dict(features.widths)
        return features.num_rows, widths, tower.num_rows, shapes

    expected = sizes()

    def fail(*_):
        raise ValueError("at the end")

    monkeypatch.setattr(growth, "_check_new_vectors", fail)
    labels = [["t0", "t1", "t2"]]
    with pytest.raises(ValueError, match="at the end"):
        model.add_candidates([300], features={"group": ["g1"], "tags": labels})
    assert sizes() == expected
    np.testing.assert_array_equal(model.recommend([1, 2], k=5)[1], before[1])


def test_added_users_are_known_by_their_features(data, model):
    grown = trained(data)
    grown.add_users([500], features={"group": ["g2"], "age": [40]})
    new = np.full(8, 500)
    assert of_group(grown.recommend([500], k=4)[0], new[:1]) > 0.7


@pytest.mark.slow
def test_a_new_day_brings_features_of_its_own(data):
    model = trained(data)
    monday = kdr.RetrievalDataset(
        [700, 700, 3],
        [800, 1, 801],
        validation_fraction=0,
        test_fraction=0,
        user_features={"user_id": [700], "group": ["g1"], "age": [40]},
        candidate_features={
            "item_id": [800, 802],  # 801 has none, and nobody has 802 yet.
            "group": ["g1", "g0"],
            "tags": [["t1", "t0", "t2"], ["t0"]],
            "price": [9.0, 8.0],
        },
    )
    added = model.add_interactions(monday)
    features, new = model.candidate_features, [-3, -2, -1]
    assert model.candidate_vocabulary.ids[new].tolist() == [800, 801, 802]
    assert np.asarray(features.is_known)[new].tolist() == [1, 0, 1]
    # g0, g1 and g2 have the indices 1 to 3.
    assert np.asarray(features.columns["group"])[new].tolist() == [2, 0, 1]
    assert 802 in model.retrievable_ids()
    model.fit(added.train, epochs=1, verbose=0)


def test_features_of_a_request_replace_those_that_are_stored(data, model):
    users = [3, 4]
    table = data.raw_features("user").columns
    same = {name: column.take(users) for name, column in table.items()}
    stored = model.recommend(users)
    given = model.recommend(users, user_features=same)
    np.testing.assert_array_equal(given[0], stored[0])
    np.testing.assert_allclose(given[1], stored[1], rtol=1e-6)
    others = model.recommend(users, user_features={"group": ["g1", "g0"]})
    assert (others[0] != stored[0]).any()


def test_a_user_without_id_and_history_has_an_answer(data, model):
    lists, scores = model.recommend(
        user_features={"group": ["g0", "g1", "g2"], "age": [30, None, 50]}, k=4
    )
    assert of_group(lists, [0, 1, 2]) > 0.9
    assert np.isfinite(scores).all()
    vectors = model.encode_users(user_features={"group": ["g0"]})
    assert vectors.shape == (1, 8)


def test_histories_and_features_go_together(data):
    model = trained(data, **towers(data))
    features = {"group": ["g1", "g1"]}
    histories = [[1, 4, 7], [10]]
    lists, _ = model.recommend(histories=histories, user_features=features, k=5)
    assert of_group(lists, [1, 1]) > 0.7
    for seen, found in zip(histories, lists, strict=True):
        assert not np.isin(seen, found).any()
    # Of whom nothing else is known, the history speaks.
    alone, _ = model.recommend(histories=histories, k=5)
    assert of_group(alone, [1, 1]) > 0.5


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({}, "or `user_features` alone. Received: neither"),
        ({"user_features": {}}, r"columns that were trained with"),
        ({"user_features": {"group": ["g1"], "age": [1, 2]}}, "one length"),
        (
            {"user_ids": [1, 2], "user_features": {"group": ["g1"]}},
            "one row for each of the 2 users",
        ),
    ],
)
def test_questions_that_do_not_fit_are_refused(model, question, message):
    with pytest.raises(ValueError, match=message):
        model.recommend(**question)


def test_a_model_without_features_says_so(data):
    model = kdr.TwoTowerRetrieval(9, 7, 4)
    with pytest.raises(ValueError, match="a model with features of users"):
        model.recommend([1], user_features={"age": [3]})


def test_a_feature_tower_needs_features_that_fit(data):
    tower = kdr.FeatureTower(data.user_features, 8)
    with pytest.raises(ValueError, match="needs the features of the users"):
        kdr.TwoTowerRetrieval(
            data.num_users, data.num_candidates, 8, user_tower=tower
        )
    with pytest.raises(ValueError, match="must be made for the features"):
        kdr.TwoTowerRetrieval.for_dataset(data, 8, candidate_tower=tower)
    with pytest.raises(ValueError, match="must be those of a data set"):
        kdr.FeatureTower(FeatureSchema({}), 8)


def test_evaluation_is_that_of_the_vectors(data, model):
    metrics = kdr.evaluate(model, data, ks=(5,))
    users, items = model.user_vectors(np.arange(49)), model.candidate_vectors()
    scores = np.array(users @ items.T)
    scores[:, 0] = -np.inf
    seen, test = data.seen_before("test"), data.ratings("test")
    hits = []
    for row in np.unique(test.user_rows):
        of_user = scores[row].copy()
        known = seen.candidate_rows[seen.indptr[row] : seen.indptr[row + 1]]
        of_user[known] = -np.inf
        best = np.argsort(-of_user, kind="stable")[:5]
        relevant = set(test.candidate_rows[test.user_rows == row].tolist())
        hits.append(len(relevant & set(best.tolist())) / len(relevant))
    assert metrics["recall_at_5"] == pytest.approx(np.mean(hits))


PROGRAM = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "keras_tuner"):
    sys.modules[name] = None
import numpy as np, keras, keras_dp_retrieval as kdr
model = keras.saving.load_model(sys.argv[1])
ids, scores = model.recommend(
    user_features={"group": ["g1"], "age": [33]}, k=4)
model.add_candidates([100], features={"group": ["g1"]})
print(ids.tolist(), np.round(scores, 4).tolist())
"""


@pytest.mark.slow
def test_a_process_without_tensorflow_answers_by_features(
    data, model, tmp_path
):
    path = tmp_path / "model.keras"
    model.save(path)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=pathlib.Path(kdr.__file__).parents[1],
        env={**os.environ},
    )
    ids, scores = model.recommend(
        user_features={"group": ["g1"], "age": [33]}, k=4
    )
    expected = f"{ids.tolist()} {np.round(scores, 4).tolist()}"
    assert done.stdout.splitlines()[-1] == expected


RANDOM = """
import random, sys
import keras, keras_dp_retrieval as kdr
from keras_dp_retrieval.data._tensorflow import import_tensorflow
data = kdr.RetrievalDataset([1, 2], [1, 2], validation_fraction=0,
    test_fraction=0, candidate_features={"item_id": [1, 2], "a": [["x"], []]})
features = data.candidate_features
keras.utils.set_random_seed(0)
assert "keras_rs" not in sys.modules
before = random.getstate()
kdr.FeatureTower(features, 4)
first = random.getstate()
assert "keras_rs" in sys.modules and first != before
random.setstate(before)
kdr.FeatureTower(features, 4)
assert random.getstate() == first
"""


@pytest.mark.slow
def test_the_first_tower_of_a_process_has_the_seeds_of_the_second():
    """Imports that come with it draw from Python's random numbers."""
    subprocess.run(
        [sys.executable, "-c", RANDOM],
        check=True,
        cwd=pathlib.Path(kdr.__file__).parents[1],
        env={**os.environ},
    )
