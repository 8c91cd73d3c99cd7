"""Full-catalogue metrics of models and pipelines without this package."""

import json

import keras
import keras_rs
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from tests.plain_keras import tutorial_pipeline

NUM_USERS, NUM_MOVIES = 9, 13  # Rows: ids begin with 1.


class TutorialModel(keras.Model):
    """Two tables and a brute-force search, as the Keras tutorial has them."""

    def __init__(self, num_users=NUM_USERS, num_movies=NUM_MOVIES):
        super().__init__()
        self.user_embedding = keras.layers.Embedding(num_users, 4)
        self.candidate_embedding = keras.layers.Embedding(num_movies, 4)
        self.retrieval = keras_rs.layers.BruteForceRetrieval(
            k=3, return_scores=False
        )
        self.squared_error = keras.losses.MeanSquaredError()

    def build(self, input_shape):
        self.user_embedding.build(input_shape)
        self.candidate_embedding.build(input_shape)
        table = self.candidate_embedding.embeddings
        self.retrieval.candidate_embeddings = table
        self.retrieval.build(input_shape)
        super().build(input_shape)

    def call(self, user_ids, training=False):
        vectors = self.user_embedding(user_ids)
        outputs = {"user_embeddings": vectors}
        if not training:
            outputs["predictions"] = self.retrieval(vectors)
        return outputs

    def compute_loss(self, x, y, y_pred, sample_weight, training=True):
        movies = self.candidate_embedding(y["candidate_id"])
        scores = keras.ops.sum(
            y_pred["user_embeddings"] * movies, axis=1, keepdims=True
        )
        return self.squared_error(y["rating"][:, None], scores, sample_weight)


def two_tables(model):
    return model.user_embedding, model.candidate_embedding.embeddings


def interactions(seed=0):
    """All pairs of even sums, shared out: `(train, held out)`, `(n, 2)`."""
    users, movies = np.meshgrid(
        np.arange(1, NUM_USERS), np.arange(1, NUM_MOVIES), indexing="ij"
    )
    pairs = np.stack([users.ravel(), movies.ravel()], axis=1).astype("int32")
    pairs = pairs[pairs.sum(axis=1) % 2 == 0]
    pairs = np.random.default_rng(seed).permutation(pairs)
    return pairs[:36], pairs[36:]


def arrays(pairs):
    ratings = np.ones(len(pairs), "float32")
    return pairs[:, 0], {"candidate_id": pairs[:, 1], "rating": ratings}


def tf_batches(pairs):
    import tensorflow as tf

    x, y = arrays(pairs)
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(12)


def expected_recall(model, k):
    """By hand: sort everything, leave out what was seen and row 0."""
    train, held_out = interactions()
    users, movies = map(keras.ops.convert_to_numpy, two_tables_as_arrays(model))
    recalls = []
    for user in np.unique(held_out[:, 0]):
        scores = movies @ users[user]
        scores[[0, *train[train[:, 0] == user, 1]]] = -np.inf
        best = np.argsort(-scores, kind="stable")[:k]
        wanted = held_out[held_out[:, 0] == user, 1]
        recalls.append(np.isin(wanted, best).mean())
    return np.mean(recalls)


def two_tables_as_arrays(model):
    return model.user_embedding.embeddings, model.candidate_embedding.embeddings


def test_the_tutorials_pipeline_gets_metrics_in_fit_and_afterwards():
    train, held_out = map(tf_batches, interactions())
    data = kdr.RetrievalDataset.from_batches(train, validation=held_out)
    model = TutorialModel()
    model.compile(keras.optimizers.Adagrad(0.2))
    history = model.fit(
        train,
        validation_data=held_out,
        epochs=2,
        verbose=0,
        callbacks=[kdr.RetrievalMetrics(data, ks=(3,), vectors=two_tables)],
    ).history
    found = kdr.evaluate(
        model, data, "validation", ks=(3, 5), vectors=two_tables
    )
    assert history["val_recall_at_3"][-1] == found["recall_at_3"]
    for k in (3, 5):
        expected = expected_recall(model, k)
        assert found[f"recall_at_{k}"] == pytest.approx(expected)
    assert found["num_users"] == len(np.unique(interactions()[1][:, 0]))


@pytest.mark.slow
def test_real_batches_and_the_data_set_of_the_same_split_agree(data_dir):
    train, test = tutorial_pipeline(data_dir / "tfds")
    model = TutorialModel(944, 1683)
    model.build((None,))
    batched = kdr.RetrievalDataset.from_batches(
        train, validation=test, candidate_key="movie_id"
    )
    with (
        pytest.warns(UserWarning, match="same rows"),
        pytest.warns(UserWarning, match="100% .* are older"),
    ):
        data = kdr.MovieLensRetrievalDataset(
            "100k", split="tutorial", data_dir=data_dir
        )
        expected = kdr.evaluate(model, data, vectors=two_tables)
    assert kdr.evaluate(model, batched, "validation", vectors=two_tables) == (
        expected
    )


class WithMethods(TutorialModel):
    """The same with the methods that an evaluation looks for."""

    def encode_users(self, user_rows):
        return self.user_embedding(user_rows)

    def candidate_vectors(self):
        return self.candidate_embedding.embeddings


def test_methods_and_a_function_are_two_ways_to_say_the_same():
    train, held_out = map(arrays, interactions())
    data = kdr.RetrievalDataset.from_batches(train, test=held_out)
    model = WithMethods()
    model.build((None,))
    by_methods = kdr.evaluate(model, data, ks=(3,))
    assert by_methods == kdr.evaluate(model, data, ks=(3,), vectors=two_tables)
    assert by_methods["recall_at_3"] == pytest.approx(expected_recall(model, 3))


def test_what_a_model_never_recommends_is_left_out_of_its_own_vectors_alone():
    train, held_out = map(arrays, interactions())
    data = kdr.RetrievalDataset.from_batches(train, test=held_out)
    model = WithMethods()
    model.build((None,))
    model.retrievable_mask = lambda: np.arange(NUM_MOVIES) < 4
    by_methods = kdr.evaluate(model, data, ks=(3,))
    assert by_methods["coverage_at_3"] <= 3 / (NUM_MOVIES - 1)
    by_function = kdr.evaluate(model, data, ks=(3,), vectors=two_tables)
    assert by_function["recall_at_3"] == pytest.approx(
        expected_recall(model, 3)
    )


def test_a_model_without_vectors_is_told_what_it_lacks_before_it_trains():
    train, held_out = map(arrays, interactions())
    data = kdr.RetrievalDataset.from_batches(train, validation=held_out)
    model = TutorialModel()
    model.compile("adagrad")
    says = (
        r"`user_vectors\(user_rows\)` \(or `encode_users\(user_rows\)`\) and "
        r"`candidate_vectors\(\)`.*`vectors=`.*TutorialModel"
    )
    with pytest.raises(TypeError, match=says):
        kdr.evaluate(model, data, "validation")
    with pytest.raises(TypeError, match=says):
        model.fit(*train, verbose=0, callbacks=[kdr.RetrievalMetrics(data)])
    assert not model.built or int(model.optimizer.iterations) == 0


@pytest.mark.parametrize(
    ("has", "lacks"),
    [
        ((), "`user_vectors` or `encode_users` and `candidate_vectors`"),
        (("candidate_vectors",), "`user_vectors` or `encode_users`"),
        (("encode_users",), "`candidate_vectors`"),
        (("user_vectors",), "`candidate_vectors`"),
    ],
)
def test_only_the_methods_that_a_model_lacks_are_named(has, lacks):
    train, held_out = map(arrays, interactions())
    data = kdr.RetrievalDataset.from_batches(train, test=held_out)
    model = TutorialModel()
    for name in has:
        setattr(model, name, lambda *args: np.ones((NUM_MOVIES, 4)))
    with pytest.raises(
        TypeError, match=f"type TutorialModel without {lacks}\\."
    ):
        kdr.evaluate(model, data)


@pytest.mark.parametrize(
    ("vectors", "says"),
    [
        ("user_embedding", "`vectors` must be a function of the model"),
        (lambda model: model.user_embedding, "It returned: <Embedding "),
        (lambda model: (1, 2), r"It returned: \['int', 'int'\]"),
    ],
)
def test_other_things_than_vectors_are_refused(vectors, says):
    train, held_out = map(arrays, interactions())
    data = kdr.RetrievalDataset.from_batches(train, test=held_out)
    with pytest.raises(TypeError, match=says):
        kdr.evaluate(TutorialModel(), data, vectors=vectors)


def test_vectors_of_the_wrong_shape_are_refused():
    train, held_out = map(arrays, interactions())
    data = kdr.RetrievalDataset.from_batches(train, test=held_out)
    users, movies = np.ones((NUM_USERS, 4)), np.ones((NUM_MOVIES, 3))
    with pytest.raises(ValueError, match=r"same dim.*\(7, 4\).*\(13, 3\)"):
        kdr.evaluate(None, data, vectors=lambda _: (users.__getitem__, movies))
    with pytest.raises(ValueError, match="a vector for every candidate"):
        kdr.evaluate(None, data, vectors=lambda _: (users.__getitem__, 1.0))


def test_vectors_that_are_not_finite_are_refused():
    train, held_out = map(arrays, interactions())
    data = kdr.RetrievalDataset.from_batches(train, test=held_out)

    def evaluated(role=None, row=0):
        tables = {
            "user": np.ones((NUM_USERS, 4)),
            "candidate": np.ones((NUM_MOVIES, 4)),
        }
        if role is not None:
            tables[role][row, 1] = np.nan
        users, movies = tables.values()
        return kdr.evaluate(
            None, data, vectors=lambda _: (users.__getitem__, movies)
        )

    expected = evaluated()
    seen = held_out[0][0], train[1]["candidate_id"][0]
    for role, row in zip(("user", "candidate"), seen, strict=True):
        with pytest.raises(ValueError, match=f"The {role} vectors must be"):
            evaluated(role, row)
    # What may not be recommended may be anything.
    assert evaluated("candidate", 0) == expected


class Sequence(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def test_every_kind_of_batches_says_the_same():
    train, held_out = interactions()
    expected = kdr.RetrievalDataset.from_batches(
        arrays(train), arrays(held_out)
    )
    halves = [arrays(train[:20]), arrays(train[20:])]
    # Padding of weight 0 stands for nothing, and ids may be alone.
    filled = np.concatenate([train, [[1, 1], [8, 12]]])
    weights = np.array([1.0] * len(train) + [0, 0])
    for part in (
        tf_batches(train),
        halves,
        iter(halves),
        Sequence(halves),
        (train[:, :1], train[:, 1]),
        ({"user_id": train[:, 0], "hour": None}, train[:, 1]),
        (*arrays(filled), weights),
    ):
        data = kdr.RetrievalDataset.from_batches(part, arrays(held_out))
        for split in ("train", "validation"):
            for column in ("user_rows", "candidate_rows"):
                np.testing.assert_array_equal(
                    getattr(data.ratings(split), column),
                    getattr(expected.ratings(split), column),
                )


def test_only_the_catalogue_is_recommended():
    # Ids from 0 on, of which 4 is nowhere but in the table.
    x, y = np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3])
    test = (np.array([0, 1]), np.array([3, 0]))
    users = np.ones((2, 1), "float32")
    movies = np.arange(5, dtype="float32")[:, None]

    def evaluate(**options):
        data = kdr.RetrievalDataset.from_batches((x, y), test=test, **options)
        return kdr.evaluate(
            None, data, ks=(1,), vectors=lambda _: (users.__getitem__, movies)
        )

    # User 0 is shown 3, user 1 then 1: id 4 is no candidate, 0 is one.
    assert evaluate()["recall_at_1"] == 0.5
    assert evaluate(candidates=range(5))["recall_at_1"] == 0.0
    assert evaluate(num_candidates=5)["recall_at_1"] == 0.5
    with pytest.raises(ValueError, match="`candidates` must have every"):
        evaluate(candidates=[0, 1, 2])
    with pytest.raises(ValueError, match="`num_candidates` must be greater"):
        evaluate(num_candidates=3)


def test_seen_items_are_those_of_the_parts_before():
    parts = [(np.array([1]), np.array([movie])) for movie in (1, 2, 3)]
    data = kdr.RetrievalDataset.from_batches(*parts)
    seen = [
        data.seen_before(split).of([1])[0].tolist()
        for split in ("train", "validation", "test")
    ]
    assert seen == [[], [1], [1, 2]]


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ((np.array(["a"]), np.array([1])), "whole numbers from 0"),
        ((np.array([0.5]), np.array([1])), "whole numbers from 0"),
        ((np.array([1]), np.array([-1])), "from -1 to -1"),
        ((np.array([1, 2]), np.array([1])), r"shapes \(2,\) and \(1,\)"),
        ((np.array([1]), {"item": np.array([1])}), r"keys \['item'\]"),
        ((np.ones((2, 2), int), np.array([1, 2])), r"shape \(batch,\)"),
        ([np.array([1])], "batches of `\\(x, y\\)`"),
        (7, "batches of `\\(x, y\\)`"),
        ([], "There must be interactions"),
    ],
)
def test_batches_of_anything_else_are_refused(part, says):
    with pytest.raises(ValueError, match=says):
        kdr.RetrievalDataset.from_batches(part)


def test_endless_batches_are_refused():
    with pytest.raises(ValueError, match="repeats for ever"):
        kdr.RetrievalDataset.from_batches(
            tf_batches(interactions()[0]).repeat()
        )


@keras.saving.register_keras_serializable(package="test_own_model_metrics")
def registered(model):
    return two_tables(model)


def test_the_callback_with_a_function_survives_json():
    train, held_out = map(arrays, interactions())
    data = kdr.RetrievalDataset.from_batches(train, held_out, num_candidates=20)
    callback = kdr.RetrievalMetrics(data, ks=(3,), vectors=registered)
    config = json.loads(
        json.dumps(keras.saving.serialize_keras_object(callback))
    )
    again = keras.saving.deserialize_keras_object(config)
    assert again.vectors is registered
    assert again.data.num_candidates == 20
    assert again.get_config() == callback.get_config()


@pytest.mark.parametrize("ks", [None, 5, "10", (), 2.5, np.array(5)])
def test_lengths_of_lists_are_checked_at_the_door(ks):
    train, held_out = map(arrays, interactions())
    data = kdr.RetrievalDataset.from_batches(train, held_out)
    with pytest.raises(ValueError, match="`ks` must be a list of one or more"):
        kdr.RetrievalMetrics(data, ks=ks)
    with pytest.raises(ValueError, match="`ks` must be a list of one or more"):
        kdr.evaluate(WithMethods(), data, "validation", ks=ks)
