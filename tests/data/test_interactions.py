"""Interaction histories, and the rows they are made of."""

import numpy as np
import pytest

from keras_dp_retrieval.data.interactions import Interactions
from keras_dp_retrieval.data.ratings import Ratings


def test_rows_that_do_not_fit_are_refused_before_the_cast():
    with pytest.raises(ValueError, match="`user_rows` must be whole numbers"):
        Ratings(np.array([-1]), np.array([1]))
    with pytest.raises(ValueError, match="`candidate_rows`"):
        Ratings(np.array([1]), np.array([2**32 + 1]))
    with pytest.raises(ValueError, match="must have the shape"):
        Ratings(np.array([1]), np.array([1, 2]))


def history(timestamps=(5, 1, 9, 5, 2)):
    # User 1 has candidates 4, 5, 6; user 3 has 7, 8; user 2 has none.
    return Interactions.from_ratings(
        Ratings(
            np.array([1, 1, 3, 1, 3]),
            np.array([4, 5, 7, 6, 8]),
            None,
            None if timestamps is None else np.array(timestamps),
        ),
        num_users=4,
    )


def test_histories_are_in_time_order_and_ties_in_file_order():
    assert [list(had) for had in history().of([1, 2, 3])] == [
        [5, 4, 6],
        [],
        [8, 7],
    ]


def test_histories_without_timestamps_are_in_file_order():
    assert [list(had) for had in history(None).of([1, 3])] == [
        [4, 5, 6],
        [7, 8],
    ]


def test_padded_histories_keep_the_latest():
    np.testing.assert_array_equal(
        history().padded([3, 2, 1]), [[8, 7, -1], [-1, -1, -1], [5, 4, 6]]
    )
    np.testing.assert_array_equal(
        history().padded([3, 1], max_length=2), [[8, 7], [4, 6]]
    )
    np.testing.assert_array_equal(history().padded([2, 0]), [[-1], [-1]])
    assert history().padded([1]).dtype == np.int32


def test_padded_histories_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    ratings = Ratings(
        rng.integers(20, size=300),
        rng.integers(50, size=300),
        None,
        rng.integers(30, size=300),
    )
    had = Interactions.from_ratings(ratings, 25)
    rows = rng.integers(25, size=40)
    for max_length in (None, 1, 5):
        padded = had.padded(rows, max_length)
        for row, line in zip(rows, padded, strict=True):
            indices = np.flatnonzero(ratings.user_rows == row)
            times = ratings.timestamps[indices]
            indices = indices[np.argsort(times, kind="stable")]
            expected = ratings.candidate_rows[indices][-(max_length or 999) :]
            assert line[line >= 0].tolist() == expected.tolist()
            assert (line[len(expected) :] == -1).all()


def test_users_outside_the_table_are_refused():
    with pytest.raises(ValueError, match=r"num_users=3 and row 3"):
        Interactions.from_ratings(
            Ratings(np.array([3]), np.array([1])), num_users=3
        )
    with pytest.raises(ValueError, match="between 0 and 3"):
        history().padded([4])
    with pytest.raises(ValueError, match="between 0 and 3"):
        history().of([-1])


def test_candidates_are_counted_over_all_rows():
    counts = history().candidate_counts(10)
    assert counts.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, 0]
