"""Synthetic ratings: the same for the same seed, and shaped like MovieLens."""

import numpy as np
import pytest

from keras_dp_retrieval.data.synthetic import synthetic_ratings


def test_synthetic_ratings_are_the_same_for_the_same_seed():
    first, second, third = (
        synthetic_ratings(50, 40, 700, seed=seed).ratings for seed in (1, 1, 2)
    )
    for name in ("user_ids", "candidate_ids", "ratings", "timestamps"):
        np.testing.assert_array_equal(
            getattr(first, name), getattr(second, name)
        )
    assert (first.candidate_ids != third.candidate_ids).any()


@pytest.mark.parametrize(
    ("num_users", "num_candidates", "num_ratings"),
    [(1, 1, 1), (50, 40, 1_000), (40, 2_000, 3_000), (2_000, 30, 9_000)],
)
def test_synthetic_ratings_use_every_user_and_candidate_and_no_pair_twice(
    num_users, num_candidates, num_ratings
):
    raw = synthetic_ratings(num_users, num_candidates, num_ratings).ratings
    assert len(raw) == num_ratings
    assert set(raw.user_ids) == set(range(1, num_users + 1))
    assert set(raw.candidate_ids) == set(range(1, num_candidates + 1))
    pairs = set(zip(raw.user_ids, raw.candidate_ids, strict=True))
    assert len(pairs) == num_ratings


def test_synthetic_ratings_look_like_movielens():
    made = synthetic_ratings(943, 1_682, 100_000)
    raw = made.ratings
    assert 3.3 < raw.ratings.mean() < 3.7
    assert set(raw.ratings) == {1, 2, 3, 4, 5}
    per_user = np.bincount(raw.user_ids)[1:]
    assert per_user.min() >= 20
    assert np.median(per_user) < per_user.mean()  # A few have very many.
    per_candidate = np.sort(np.bincount(raw.candidate_ids)[1:])[::-1]
    # In MovieLens 100K the most popular tenth has 43 % of the ratings.
    assert 0.3 < per_candidate[:168].sum() / 100_000 < 0.7


def test_synthetic_half_stars():
    raw = synthetic_ratings(50, 40, 900, rating_range=(0.5, 5.0)).ratings
    assert set(raw.ratings) <= set(np.arange(1, 11) / 2)
    assert 0.5 in set(raw.ratings % 1)


def test_synthetic_order_carries_information():
    made = synthetic_ratings(300, 500, 12_000)
    raw = made.ratings
    order = np.lexsort((raw.timestamps, raw.user_ids))
    users = raw.user_ids[order]
    tastes = made.candidate_tastes[raw.candidate_ids[order] - 1]
    same_user = users[1:] == users[:-1]
    stays = (tastes[1:] == tastes[:-1])[same_user].mean()
    # As often as one would guess from all of the user's interactions at once.
    share = made.user_tastes[users - 1, tastes]
    assert stays > share.mean() + 0.1
    # And no two interactions of a user are of one moment.
    times = raw.timestamps[order]
    assert (np.diff(times)[same_user] > 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5, 5), "`num_users`"),
        ((10, 5, 9), r"`num_ratings` must be .* 10 to 25. Received"),
        ((10, 5, 26), "at most half of all pairs"),
    ],
)
def test_impossible_synthetic_shapes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        synthetic_ratings(*arguments)
