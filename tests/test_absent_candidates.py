"""Candidates that are not in the train part: never negatives, nor noise."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_dp_retrieval as kdr
from keras_dp_retrieval.losses import FullSoftmax, InBatchSoftmax
from keras_dp_retrieval.model import id_rows

NUM_USERS, NUM_KNOWN = 12, 9
ABSENT = [100, 101, 102]  # Raw ids that the test part alone has.


def data_with_absent():
    """Everyone has 6 of 9 candidates; the other three are only in test."""
    users = np.repeat(np.arange(NUM_USERS), 6)
    items = (users * 5 + np.tile(np.arange(6), NUM_USERS)) % NUM_KNOWN
    # User 0 is only asked for absent ones, user 1 for one of each kind.
    test = ([0, 0, 1, 1], [100, 101, 102, (5 + 7) % NUM_KNOWN])
    return kdr.RetrievalDataset.from_interactions(
        users, items, test=test, validation_fraction=0, batch_size=24
    )


def model_of(data, objective="full_softmax", **kwargs):
    keras.utils.set_random_seed(1)
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, 4, objective=objective, **kwargs
    )
    model.compile(keras.optimizers.SGD(1.0))
    return model


def table_of(model):
    model.build()
    return ops.convert_to_numpy(model.candidate_tower.embeddings)


@pytest.mark.parametrize(
    "objective",
    [
        lambda: FullSoftmax(),
        lambda: FullSoftmax(mask_known_positives=False),
        lambda: FullSoftmax(chunk_size=5),
        lambda: InBatchSoftmax(num_uniform_negatives=50, seed=1),
    ],
    ids=["full", "unmasked", "chunked", "uniform"],
)
def test_what_training_does_not_have_is_nobodys_negative(objective):
    data = data_with_absent()
    model = model_of(data, objective())
    rows = data.candidate_vocabulary.rows(np.array(ABSENT))
    before = table_of(model)
    model.fit(data.train, epochs=2, verbose=0)
    after = table_of(model)
    np.testing.assert_array_equal(after[rows], before[rows])
    known = np.setdiff1d(np.arange(1, len(after)), rows)
    assert (after[known] != before[known]).any(axis=1).all()


def test_a_candidate_that_training_has_competes_from_the_first_step():
    data = data_with_absent()
    model = model_of(data)
    before = table_of(model)
    x, y = next(iter(data.train.take(1).as_numpy_iterator()))[:2]
    one = y["candidate_id"][:1]
    model.fit(x[:1], {"candidate_id": one}, verbose=0)
    moved = (table_of(model) != before).any(axis=1)
    seen = data.seen.of(x[:1])[0]
    known = data.candidate_counts("train") > 0
    known[np.setdiff1d(seen, one)] = False  # What the user had is masked.
    np.testing.assert_array_equal(moved, known)


@pytest.mark.parametrize("objective", ["full_softmax", "rating"])
def test_noise_is_not_recommended(objective, tmp_path):
    data = data_with_absent()
    kwargs = {}
    if objective == "rating":
        kwargs["objective"] = keras.losses.MeanSquaredError()
        model = model_of(data, **kwargs)
    else:
        model = model_of(data)
        model.fit(data.train, verbose=0)
    everything = np.arange(NUM_KNOWN)
    for one in (model, saved_and_loaded(model, tmp_path)):
        np.testing.assert_array_equal(
            np.sort(one.retrievable_ids()), everything
        )
        users = np.arange(NUM_USERS)
        ids, _ = one.recommend(users, k=12, exclude_seen=False)
        assert set(ids.flat) == {*everything, -1}
        rows = one.predict(id_rows.user_rows(one, users), verbose=0)[
            "predictions"
        ]
        known = data.candidate_vocabulary.rows(everything)
        assert set(rows[:, :NUM_KNOWN].flat) == set(known)
        one.build_index()
        ids, _ = one.recommend(users, k=12, exclude_seen=False)
        assert set(ids.flat) == {*everything, -1}


def saved_and_loaded(model, folder):
    model.save(folder / "m.keras")
    return keras.saving.load_model(folder / "m.keras")


def test_what_cannot_be_found_is_a_miss_and_takes_nobodys_place():
    data = data_with_absent()
    model = model_of(data)
    # Users point where the absent ones are, and away from all others.
    rows = data.candidate_vocabulary.rows(np.array(ABSENT))
    table = np.tile([[-1.0, 0, 0, 0]], (data.num_candidates, 1))
    table[rows] *= -1
    model.build()
    model.candidate_tower.set_weights([table])
    model.user_tower.set_weights([np.ones((data.num_users, 4))])
    found = kdr.evaluate(model, data, ks=(3,))
    assert found["num_users"] == 2
    # User 0 finds neither; user 1, who had six of nine, one of two.
    assert found["recall_at_3"] == pytest.approx(0.25)
    assert found["coverage_at_3"] <= NUM_KNOWN / (NUM_KNOWN + 3)


def test_what_is_trained_later_competes_and_is_recommended():
    data = data_with_absent()
    model = model_of(data)
    new = int(data.candidate_vocabulary.rows(np.array([100]))[0])
    one = {"candidate_id": np.array([new])}
    loss = model.fit(np.array([3]), one, verbose=0).history["loss"][0]
    assert 0 < loss < 50  # No logit of what does not compete.
    assert 100 in model.retrievable_ids()
    before = table_of(model)[new]
    model.fit(data.train, verbose=0)
    assert (table_of(model)[new] != before).any()
    assert 101 not in model.retrievable_ids()


@keras.saving.register_keras_serializable(package="test_absent")
class Kinds(keras.layers.Layer):
    """A candidate's own vector and that of its kind, which is its id % 4."""

    def __init__(self, num_candidates, raw_ids, **kwargs):
        super().__init__(**kwargs)
        self.kinds = np.concatenate([[4], np.asarray(raw_ids) % 4])
        self.own = kdr.RowEmbedding(
            num_candidates, 8, embeddings_initializer="zeros"
        )
        self.of_kind = keras.layers.Embedding(5, 8)

    def build(self, input_shape=None):
        self.own.build()
        self.of_kind.build()
        self.built = True

    def call(self, rows):
        kinds = ops.take(ops.convert_to_tensor(self.kinds), rows)
        return self.own(rows) + self.of_kind(kinds)


def test_new_candidates_with_known_features_are_found():
    # Users like one of four kinds; of each kind, four of 16 are new.
    rng = np.random.default_rng(0)
    users = np.arange(40)
    liked = (users % 4)[:, None] + 4 * np.arange(16)
    had = np.sort(rng.permuted(liked[:, :12], axis=1)[:, :8])
    data = kdr.RetrievalDataset.from_interactions(
        np.repeat(users, 8),
        had.ravel(),
        test=(np.repeat(users, 4), liked[:, 12:].ravel()),
        validation_fraction=0,
        batch_size=80,
    )
    tower = Kinds(data.num_candidates, data.candidate_vocabulary.ids)
    keras.utils.set_random_seed(1)
    model = kdr.TwoTowerRetrieval.for_dataset(data, 8, candidate_tower=tower)
    model.compile(keras.optimizers.Adam(0.05))
    model.fit(data.train, epochs=15, verbose=0)
    assert len(model.retrievable_ids()) == 64
    # Eight of the kind are left, four of them new: chance among all is 0.14,
    # among the kind 1.
    assert kdr.evaluate(model, data, ks=(8,))["recall_at_8"] > 0.9


def test_a_model_that_was_not_told_takes_all_as_before():
    x = np.array([1, 2, 3])
    model = kdr.TwoTowerRetrieval(5, 6, 4)
    model.compile(keras.optimizers.SGD(1.0))
    before = table_of(model)
    model.fit(x, {"movie_id": x}, verbose=0)
    moved = (table_of(model) != before).any(axis=1)
    np.testing.assert_array_equal(moved, [False] + [True] * 5)
    np.testing.assert_array_equal(model.retrievable_ids(), np.arange(1, 6))


def test_weights_of_an_earlier_format_are_taken_as_not_told():
    model = kdr.TwoTowerRetrieval(5, 6, 4)
    model.load_own_variables({"0": np.arange(6)})
    np.testing.assert_array_equal(model.candidate_counts, np.arange(6))
    np.testing.assert_array_equal(model.absent_candidates, [1, 0, 0, 0, 0, 0])
