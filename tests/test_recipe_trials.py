"""What trials are made of: a shared beginning, ranks of what is held out."""

import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval.metrics import RankingTask
from keras_dp_retrieval.recipe import choose_recipe, held_out
from keras_dp_retrieval.recipe.held_out import HeldOut
from keras_dp_retrieval.recipe.sharing import Shared
from keras_dp_retrieval.recipe.training import Branches, Training

pytestmark = pytest.mark.filterwarnings("ignore:.*older than the newest")


@pytest.fixture(scope="module")
def data():
    return kdr.RetrievalDataset.from_synthetic(
        150, 400, 4000, num_tastes=4, validation_fraction=0.2
    )


@pytest.fixture(scope="module")
def training(data):
    recipe = choose_recipe(data, epochs=4, embedding_dimension=8)
    return Training(data, recipe, 0, Shared.of(data))


def weights(training):
    return [np.array(w) for w in training.model.trainable_variables]


def test_trainings_that_share_their_beginning_are_like_whole_ones(
    data, training
):
    temperature = training.recipe.temperature
    branches = Branches(training, shared_epochs=3)
    branches.train(temperature)
    first = weights(training)
    branches.train(2 * temperature)
    other = weights(training)
    branches.train(temperature)
    whole = Training(data, training.recipe, 0)
    whole.fit(4)
    for one, again, changed, expected in zip(
        first, weights(training), other, weights(whole), strict=True
    ):
        np.testing.assert_array_equal(one, again)
        np.testing.assert_allclose(one, expected, atol=1e-5)
        assert np.abs(one - changed).max() > 1e-3


@pytest.mark.parametrize("chunk", [held_out.CHUNK, 2000])
def test_ranks_of_what_was_held_out_are_those_of_an_evaluation(
    data, training, chunk, monkeypatch
):
    monkeypatch.setattr(held_out, "CHUNK", chunk)
    found = HeldOut(data, 10)
    model = training.model
    encoded = found.encoder(model)()
    expected = RankingTask.prepare(data, "validation", (10,))
    for weight in (0.0, 0.05, 0.5):
        encoded.popularity_weight = model.popularity_weight = weight
        # Both sum in float32, in another order: hardly any rank differs.
        np.testing.assert_allclose(
            found.ndcg_of_users(encoded, 10),
            expected.ndcg_of_users(model, 10),
            atol=0.02 if weight else 1e-9,
        )
    model.popularity_weight = 0.0


def test_of_equal_scores_the_lower_row_goes_first(data):
    found = HeldOut(data, 10)
    encoded = held_out.Encoded(
        np.ones((len(found.user_rows), 1), "float32"),
        np.ones((data.num_candidates, 1), "float32"),
        np.zeros(data.num_candidates, "float32"),
        np.arange(data.num_candidates) > 0,
        popularity_weight=0.0,
    )

    class Equal:
        def user_vectors(self, rows):
            return np.ones((len(rows), 1), "float32")

        def candidate_vectors(self):
            return np.ones((data.num_candidates, 1), "float32")

    expected = RankingTask.prepare(data, "validation", (10,))
    np.testing.assert_array_equal(
        found.ndcg_of_users(encoded, 10), expected.ndcg_of_users(Equal(), 10)
    )


def test_of_many_users_a_sample_is_ranked(data, training, monkeypatch):
    everyone = HeldOut(data, 10)
    monkeypatch.setattr(held_out, "MAX_SCORES", 40 * data.num_candidates)
    some = HeldOut(data, 10)
    assert len(some.user_rows) == 40
    places = [list(everyone.user_rows).index(u) for u in some.user_rows]
    ndcg = [
        task.ndcg_of_users(task.encoder(training.model)(), 10)
        for task in (everyone, some)
    ]
    np.testing.assert_allclose(ndcg[0][places], ndcg[1])
    assert 0 < ndcg[1].mean() < 1
