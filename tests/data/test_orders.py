"""Orders by time and by user: what a plain stable sort gives."""

import numpy as np
import pytest

from keras_dp_retrieval.data.leakage import _num_repeated, leakage_report
from keras_dp_retrieval.data.orders import (
    latest_of_users,
    time_order,
    user_order,
)
from keras_dp_retrieval.data.ratings import Ratings
from keras_dp_retrieval.data.splits import split_leave_last_out

SECOND = 10**9


def clocks():
    """Timestamps that are packed, divided or sorted as they are."""
    rng = np.random.default_rng(0)
    seconds = rng.integers(1_000_000_000, 1_000_000_300, size=999)
    years = rng.integers(0, 100, size=999) * 31_536_000 * SECOND
    return {
        "none": None,
        "one": np.full(999, 5),
        "seconds": seconds,
        "dates in whole seconds": years,
        "dates before 1970": years - 101 * 31_536_000 * SECOND,
        # 999 indices take 10 of 63 bits, and these times 54.
        "one bit too many": np.append(
            rng.integers(2**54, size=997), [0, 2**54 - 1]
        ),
        "milliseconds": years + seconds * 10**6,
        "nanoseconds": years + rng.integers(3, size=999),
        "the ends of 64 bits": rng.choice([-(2**63), 0, 2**63 - 1], size=999),
        "below zero": -seconds,
    }


@pytest.mark.parametrize("clock", clocks())
def test_orders_are_those_of_a_plain_stable_sort(clock):
    times = clocks()[clock]
    rng = np.random.default_rng(1)
    users = rng.integers(1, 200, size=999)
    ratings = Ratings(users, users, None, times)
    sorted_by = np.zeros(999, int) if times is None else times
    expected = np.argsort(sorted_by, kind="stable")
    np.testing.assert_array_equal(time_order(ratings), expected)
    expected = np.lexsort((sorted_by, users))
    np.testing.assert_array_equal(user_order(ratings), expected)

    in_order = users[expected]
    last, before = latest_of_users(ratings, 2)
    for user in range(200):
        of_user = expected[in_order == user]
        assert last[user] == (of_user[-1] if len(of_user) else -1)
        assert before[user] == (of_user[-2] if len(of_user) > 1 else -1)

    for num in (1, 2):
        made = split_leave_last_out(ratings, validation=num == 2)
        from_end = np.array(
            [
                np.sum(in_order[place:] == user)
                for place, user in enumerate(in_order)
            ]
        )
        enough = np.bincount(users)[in_order] > num
        test = expected[enough & (from_end == 1)]
        np.testing.assert_array_equal(made.test, test)
        validation = expected[enough & (from_end == 2) & (num == 2)]
        np.testing.assert_array_equal(made.validation, validation)
        rest = np.setdiff1d(np.arange(999), [*test, *validation])
        np.testing.assert_array_equal(made.train, rest)


def test_a_user_of_one_interaction_has_none_before_it():
    one = Ratings(np.array([0]), np.array([3]))
    assert [rows.tolist() for rows in latest_of_users(one, 2)] == [[0], [-1]]


def test_nobody_has_a_last_interaction_where_there_are_none():
    nothing = Ratings(*np.zeros((2, 0), "int32"))
    assert [len(rows) for rows in latest_of_users(nothing, 2)] == [0, 0]


def test_the_largest_user_row_is_sorted_like_any_other():
    users = np.array([2**31 - 1, 1, 2**31 - 1, 1])
    ratings = Ratings(users, users, None, np.array([4, 3, 2, 1]))
    assert user_order(ratings).tolist() == [3, 1, 2, 0]


def test_repeated_pairs_and_new_rows_are_those_of_plain_sets():
    rng = np.random.default_rng(2)
    for num_train, num_test in ((50, 40), (3, 40), (0, 5), (5, 0), (0, 0)):
        train, test = (
            Ratings(*rng.integers(9, size=(2, num)))
            for num in (num_train, num_test)
        )
        known = set(pairs(train))
        report = leakage_report(train, test)
        assert report.num_repeated == sum(one in known for one in pairs(test))
        for name in ("user", "candidate"):
            rows, known_rows = (
                set(getattr(part, f"{name}_rows").tolist())
                for part in (test, train)
            )
            counted = getattr(report, f"num_unseen_{name}s")
            assert counted == len(rows - known_rows)


def test_pairs_of_the_largest_rows_are_told_apart():
    last = 2**31 - 1
    train = np.array([[last, last], [last, last - 1]])
    test = np.array([[last, last - 1, last], [last - 1, last, last - 2]])
    assert _num_repeated(Ratings(*train), Ratings(*test)) == 1


def pairs(ratings):
    return list(
        zip(
            ratings.user_rows.tolist(),
            ratings.candidate_rows.tolist(),
            strict=True,
        )
    )
