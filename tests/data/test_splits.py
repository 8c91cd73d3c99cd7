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


def sizes(made):
    return len(made.train), len(made.validation), len(made.test)


def test_random_split_by_default_has_a_tenth_of_the_rest_for_validation():
    made = splits.split_random(1_000)
    assert sizes(made) == (720, 80, 200)
    order = np.random.RandomState(42).permutation(1_000)
    np.testing.assert_array_equal(made.train, order[:720])


def test_a_split_has_the_fractions_and_the_seed_that_were_asked_for():
    ratings = Ratings(*np.arange(3 * 80).reshape(3, 80), np.arange(80))
    asked = {"test_fraction": 0.5, "validation_fraction": 0.25, "seed": 7}
    made = splits.make_split("random", ratings, **asked)
    order = np.random.RandomState(7).permutation(80)
    np.testing.assert_array_equal(made.train, order[:30])
    assert sizes(made) == (30, 10, 40)
    by_time = splits.make_split("by_time", ratings, **asked)
    assert sizes(by_time) == (30, 10, 40)
    assert sizes(splits.split_by_time(ratings)) == (58, 6, 16)


@pytest.mark.parametrize("test", [0, 0.2])
@pytest.mark.parametrize("validation", [0, 0.1])
def test_leave_last_out_has_the_parts_whose_fraction_is_not_zero(
    test, validation
):
    ratings = Ratings(np.repeat(np.arange(5), 3), np.arange(15))
    made = splits.make_split(
        "leave_last_out",
        ratings,
        test_fraction=test,
        validation_fraction=validation,
        seed=0,
    )
    held_out = 5 * (validation > 0), 5 * (test > 0)
    assert sizes(made) == (15 - sum(held_out), *held_out)


def test_the_tutorial_split_is_given_the_seed(monkeypatch):
    monkeypatch.setattr(
        splits, "_tf_data_order", lambda num, seed: np.arange(num) + seed
    )
    rows = np.zeros(100_000, "int32")
    made = splits.make_split(
        "tutorial",
        Ratings(rows, rows),
        test_fraction=0.5,
        validation_fraction=0.5,
        seed=7,
    )
    assert (made.train[0], made.test[0]) == (7, 80_007)
    assert sizes(made) == (80_000, 20_000, 20_000)
    assert splits.split_tutorial(100_000).train[0] == 42


def test_indices_are_int64_whatever_they_are_made_of():
    made = splits.Split(np.arange(3, dtype="int32"), [3, 4], [])
    for part in (made.train, made.validation, made.test):
        assert part.dtype == "int64"


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


@pytest.mark.parametrize("part", ["test", "validation"])
def test_time_split_names_the_part_that_leaves_nothing_before_it(part):
    # The oldest are what is left for validation, or reach into the test part.
    times = np.repeat([0, 1], (8, 2) if part == "validation" else (9, 1))
    ratings = Ratings(times, times, None, times)
    with pytest.raises(ValueError, match=f"learn from before the {part} part"):
        splits.split_by_time(ratings)


def test_a_split_that_the_data_do_not_allow_is_refused():
    with pytest.raises(ValueError, match=r"`split` must be .*by_tim'"):
        splits.check_split("by_tim", True, False)
    with pytest.raises(ValueError, match="has its own test part"):
        splits.check_split("tutorial", True, True)
    for split in splits.SPLITS:
        splits.check_split(split, True, False)
    for split in ("random", "leave_last_out"):
        splits.check_split(split, False, True)


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
    ratings = Ratings(np.array([1, 1, 2, 3, 3]), np.array([5, 6, 7, 5, 6]))
    made = splits.split_leave_last_out(ratings, test=False)
    assert made.validation.tolist() == [1, 4]
    assert made.train.tolist() == [0, 2, 3]
    assert not len(made.test)
    assert "1 users with fewer than 2 interactions" in made.note


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
