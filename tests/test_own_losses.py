"""What layers add to the loss themselves trains, and counts once."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_dp_retrieval as kdr
from keras_dp_retrieval.towers.embedding import RowEmbedding

NUM_USERS, NUM_CANDIDATES, DIM = 8, 6, 4
X = np.array([1, 2, 3, 4, 5, 6, 7, 1])
ROWS = np.array([1, 1, 2, 3, 1, 5, 2, 1])
Y = {"movie_id": ROWS, "rating": np.ones(8, "float32")}


def model_of(user_tower=None, candidate_tower=None, **options):
    keras.utils.set_random_seed(0)
    spe = options.pop("steps_per_execution", 1)
    model = kdr.TwoTowerRetrieval(
        NUM_USERS,
        NUM_CANDIDATES,
        DIM,
        user_tower=user_tower,
        candidate_tower=candidate_tower,
        **options,
    )
    model.compile(keras.optimizers.SGD(0.5), steps_per_execution=spe)
    return model


@pytest.mark.parametrize(
    ("objective", "updates", "steps_per_execution"),
    [
        ("rating", "dense", 1),
        ("full_softmax", "dense", 2),
        ("in_batch_softmax", "row_sparse", 1),
        ("rating", "row_sparse", 2),
    ],
)
def test_an_activity_regularizer_moves_the_candidates_as_by_hand(
    objective, updates, steps_per_execution
):
    # Users of zeros that do not learn: no other gradient reaches candidates.
    users = keras.layers.Embedding(
        NUM_USERS, DIM, embeddings_initializer="zeros", trainable=False
    )
    candidates = RowEmbedding(
        NUM_CANDIDATES, DIM, activity_regularizer=keras.regularizers.L2(0.1)
    )
    model = model_of(
        users,
        candidates,
        objective=objective,
        embedding_updates=updates,
        steps_per_execution=steps_per_execution,
    )
    model(X)
    expected = np.array(candidates.embeddings.value)
    model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    for start in (0, 4):
        # Keras divides by the rows that a layer was called with.
        if objective == "full_softmax":
            share = np.full(NUM_CANDIDATES, 1 / NUM_CANDIDATES)
        else:
            rows = ROWS[start : start + 4]
            share = np.bincount(rows, minlength=NUM_CANDIDATES) / 4
        expected -= 0.5 * 0.1 * 2 * expected * share[:, None]
    np.testing.assert_allclose(
        candidates.embeddings.value, expected, rtol=1e-5, atol=1e-7
    )


class Adding(keras.layers.Layer):
    """A table that adds the sum of the squares it looks up, times 0.01."""

    def __init__(self, num_rows, adds):
        super().__init__()
        self.table = RowEmbedding(num_rows, DIM)
        self.adds = adds

    def call(self, rows):
        vectors = self.table(rows)
        if self.adds:
            self.add_loss(0.01 * ops.sum(ops.square(vectors)))
        return vectors


@pytest.mark.parametrize(
    ("objective", "updates"),
    [
        ("rating", "dense"),
        ("full_softmax", "row_sparse"),
        pytest.param("rating", "row_sparse", marks=pytest.mark.slow),
        pytest.param("full_softmax", "dense", marks=pytest.mark.slow),
    ],
)
def test_what_both_towers_add_counts_once_in_training_and_evaluation(
    objective, updates
):
    losses = {}
    for adds in (False, True):
        model = model_of(
            Adding(NUM_USERS, adds),
            Adding(NUM_CANDIDATES, adds),
            objective=objective,
            embedding_updates=updates,
        )
        losses[adds] = (
            model.test_on_batch(X, Y),
            model.evaluate(X, Y, verbose=0),
            model.train_on_batch(X, Y),  # Before its step.
        )
        if not adds:
            continue
        model = model_of(
            Adding(NUM_USERS, adds),
            Adding(NUM_CANDIDATES, adds),
            objective=objective,
        )
        model(X)
        users, candidates = (
            np.array(tower.table.embeddings.value)
            for tower in (model.user_tower, model.candidate_tower)
        )
        seen = slice(None) if objective == "full_softmax" else ROWS
        added = np.sum(users[X] ** 2) + np.sum(candidates[seen] ** 2)
    np.testing.assert_allclose(
        np.subtract(losses[True], losses[False]), 0.01 * added, rtol=1e-3
    )


def test_regularizers_of_weights_count_once():
    def loss(l2):
        keras.utils.set_random_seed(0)
        regularizer = keras.regularizers.L2(l2)
        candidates = RowEmbedding(
            NUM_CANDIDATES, DIM, embeddings_regularizer=regularizer
        )
        model = model_of(candidate_tower=candidates, objective="rating")
        model(X)
        table = np.array(candidates.embeddings.value)
        return model.train_on_batch(X, Y), table

    (plain, table), (regularized, _) = loss(0.0), loss(0.5)
    assert regularized - plain == pytest.approx(0.5 * np.sum(table**2), 1e-4)


def test_an_objective_may_add_to_the_loss():
    @keras.saving.register_keras_serializable(package="test_own_losses")
    class Adds(kdr.losses.Objective):
        def call(self, batch):
            self.add_loss(ops.convert_to_tensor(3.0))
            return ops.zeros_like(batch.weights)

    model = model_of(objective=Adds())
    assert model.train_on_batch(X, Y) == pytest.approx(3.0)
    assert model.train_on_batch(X, Y) == pytest.approx(3.0)
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(3.0)
