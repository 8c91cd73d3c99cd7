import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval.recipe import choose_recipe


def synthetic(**options):
    return kdr.RetrievalDataset.from_synthetic(
        150, 80, 6000, num_tastes=4, **options
    )


def popularity_ndcg(data):
    """NDCG@10 of recommending to everyone what most people had."""

    class Popularity:
        def user_vectors(self, rows):
            return np.ones((len(rows), 1), "float32")

        def candidate_vectors(self):
            counts = data.candidate_counts("train")
            return counts.astype("float32")[:, None]

    return kdr.evaluate(Popularity(), data)["ndcg_at_10"]


def test_the_recipe_finds_tastes_that_popularity_does_not():
    data = synthetic()
    model = kdr.fit_recipe(data)
    assert kdr.evaluate(model, data)["ndcg_at_10"] > 1.2 * popularity_ndcg(data)


def test_where_the_test_is_later_the_order_counts():
    data = synthetic(split="leave_last_out")
    assert choose_recipe(data).order == "recency"
    assert choose_recipe(synthetic()).order == "ignored"
    model = kdr.fit_recipe(data, epochs=1, embedding_dimension=8)
    assert isinstance(model.user_tower, kdr.RecencyTower)
    # A user whom nobody has seen.
    ids, _ = model.recommend(histories=[data.candidate_vocabulary.ids[:3]])
    assert ids.shape == (1, 10)


def test_it_takes_plain_ids_and_a_given_test_part():
    rng = np.random.default_rng(0)
    users = [f"user {u}" for u in rng.integers(0, 40, 800)]
    candidates = rng.integers(0, 30, 800) * 7
    data = kdr.RetrievalDataset.from_interactions(
        users, candidates, test=(users[:50], candidates[:50])
    )
    model = kdr.fit_recipe(data, epochs=2, embedding_dimension=8)
    ids, _ = model.recommend(["user 3"], k=4)
    assert set(ids[0]) <= set(candidates)


def test_the_seed_decides():
    data = synthetic()
    vectors = [
        kdr.fit_recipe(
            data, seed=seed, epochs=1, embedding_dimension=8
        ).encode_candidates()
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert np.abs(vectors[0] - vectors[2]).max() > 0.01


def test_validation_is_learned_from_unless_it_is_asked_not_to_be():
    data = synthetic(validation_fraction=0.5)
    options = {"epochs": 1, "embedding_dimension": 8}
    known = [
        kdr.fit_recipe(data, validation_in_train=v, **options).histories
        for v in (True, False)
    ]
    train = len(data.ratings("train"))
    assert known[0].num_interactions == train + len(data.ratings("validation"))
    assert known[1].num_interactions == train


def test_larger_catalogues_get_smaller_vectors_and_in_batch_negatives():
    class Shape:
        split, batch_size, num_users = "random", 1000, 30_001

        def __init__(self, num_candidates):
            self.num_candidates = num_candidates

        def ratings(self, split):
            return range(1_200_000)

    small, large = choose_recipe(Shape(41_001)), choose_recipe(Shape(10**6))
    assert small.objective == "full_softmax"
    assert small.embedding_dimension == 128
    assert large.objective == "in_batch_softmax"


def test_unknown_options_are_named():
    with pytest.raises(ValueError, match="no option 'learning_rat'"):
        kdr.fit_recipe(synthetic(), learning_rat=0.1)
    with pytest.raises(ValueError, match="`epochs` must be"):
        kdr.fit_recipe(synthetic(), epochs=0)
