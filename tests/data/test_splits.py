"""Splits: nothing is lost, and what may look ahead says so."""

import numpy as np
import pytest

from keras_dp_retrieval.data import splits
from keras_dp_retrieval.data.ratings import Ratings


def make_ratings(num, seed=0, num_times=10_000, num_users=40):
    rng = np.random.default_rng(seed)
    return Ratings(
        rng.integers(1, num_users, size=num),
        rng.integers(1, 60, size=num),
        rng.integers(1, 6, size=num),
        rng.integers(num_times, size=num),
    )


@pytest.mark.parametrize("split", ["random", "by_time", "leave_last_out"])
@pytest.mark.parametrize("num", [1, 2, 3, 10, 1_009])
def test_every_interaction_is_in_exactly_one_part(split, num):
    made = splits.make_split(
        split,
        make_ratings(num),
        test_fraction=0.2,
        validation_fraction=0.1,
        seed=42,
    )
    indices = np.concatenate([made.train, made.validation, made.test])
    np.testing.assert_array_equal(np.sort(indices), np.arange(num))
    assert len(made.train)


def test_random_split_is_the_first_protocol():
    order = np.random.RandomState(43).permutation(100_000)
    made = splits.split_random(100_000, validation_fraction=0.125, seed=43)
    np.testing.assert_array_equal(made.train, order[:70_000])
    np.testing.assert_array_equal(made.validation, order[70_000:80_000])
    np.testing.assert_array_equal(made.test, order[80_000:])


def test_random_split_by_default_has_a_tenth_of_the_rest_for_validation():
    made = splits.split_random(1_000)
    sizes = len(made.train), len(made.validation), len(made.test)
    assert sizes == (720, 80, 200)


@pytest.mark.parametrize("num_times", [10_000, 7])  # 7: many at one moment
def test_time_split_never_looks_ahead(num_times):
    ratings = make_ratings(1_000, num_times=num_times)
    made = splits.split_by_time(ratings)
    train, validation, test = (
        ratings.timestamps[indices]
        for indices in (made.train, made.validation, made.test)
    )
    assert train.max() < validation.min()
    assert validation.max() < test.min()
    assert len(test) >= 200


def test_time_split_needs_different_times():
    same = make_ratings(10, num_times=1)
    with pytest.raises(ValueError, match=r"different times.*10 interactions"):
        splits.split_by_time(same)
    without = Ratings(same.user_rows, same.candidate_rows)
    with pytest.raises(ValueError, match="needs timestamps"):
        splits.check_split("by_time", without.timestamps is not None, False)


def test_last_interaction_of_each_user_is_left_out():
    ratings = Ratings(
        np.array([1, 1, 1, 2, 2, 3, 1, 4, 4, 4]),
        np.array([5, 6, 7, 5, 6, 5, 8, 1, 2, 3]),
        None,
        # User 1: the row 3 is newest, then rows 1 and 2 at one moment, of
        # which the later in the file counts as the newer.
        np.array([1, 4, 4, 1, 2, 1, 9, 3, 2, 1]),
    )
    made = splits.split_leave_last_out(ratings)
    assert made.test.tolist() == [6, 7]
    assert made.validation.tolist() == [2, 8]
    assert made.train.tolist() == [0, 1, 3, 4, 5, 9]
    assert "2 users with fewer than 3 interactions" in made.note


def test_leaving_one_out_needs_only_two_interactions():
    ratings = Ratings(np.array([1, 1, 2]), np.array([5, 6, 7]))
    made = splits.split_leave_last_out(ratings, test=False)
    assert made.validation.tolist() == [1]
    assert made.train.tolist() == [0, 2]
    assert not len(made.test)


def test_tutorial_split_is_what_its_pipeline_gives():
    import keras
    import tensorflow as tf

    # Independently: all rows through tf.data's shuffle, then take and skip.
    tf.random.set_seed(None)
    rows = tf.data.Dataset.range(100_000).shuffle(
        100_000, seed=42, reshuffle_each_iteration=False
    )
    train = rows.take(80_000).batch(80_000).get_single_element().numpy()
    test = rows.skip(80_000).batch(20_000).get_single_element().numpy()

    for global_seed in (0, 7):
        keras.utils.set_random_seed(global_seed)
        made = splits.split_tutorial(100_000)
        np.testing.assert_array_equal(made.train, train)
        np.testing.assert_array_equal(made.test, test)
        np.testing.assert_array_equal(made.validation, test)
    assert "same rows" in made.note


def test_tutorial_split_would_lose_rows_of_other_sizes_so_it_refuses():
    with pytest.raises(ValueError, match=r"100,000 .* Received: 100,836"):
        splits.split_tutorial(100_836)
