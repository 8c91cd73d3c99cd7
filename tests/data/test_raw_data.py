"""Interactions as they came in: what is refused, and what is kept."""

import numpy as np
import pytest

from keras_dp_retrieval.data.raw_data import RawRatings


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([1, 2], [1]), "lengths"),
        (([], []), "at least one row"),
        (([1.5], [1]), "`user_ids` must be whole numbers or strings"),
        (([[1]], [1]), "one-dimensional"),
        ((["a", None], [1, 2]), "missing values. Received 1, .* in row 1"),
        ((np.array(["a", 2], object), [1, 2]), "mixture"),
        (([1, 2], [1, 2], [3, np.nan]), r"Received 1 .* in row 1: nan"),
        (([1, 2], [1, 2], [np.inf, 1]), "finite"),
        (([1, 2], [1, 2], ["a", "b"]), "`ratings` must be numbers"),
        (([1], [1], [1], [1.5]), "`timestamps` must be whole numbers"),
        (([1], [1], [1], ["monday"]), "`timestamps` must be whole numbers"),
        ((np.array([2**64 - 1], np.uint64), [1]), "64 bits"),
    ],
)
def test_bad_columns_are_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        RawRatings(*columns)


def test_ratings_out_of_range_are_counted_and_the_first_is_named():
    raw = RawRatings([1, 2, 3], [1, 2, 3], [5, 5.5, 0])
    with pytest.raises(ValueError, match=r"Received 2 .* in row 1: 5.5"):
        raw.check_range(1, 5)


def test_dates_keep_their_order_below_a_second():
    dates = np.array(["2020-01-01T00:00:00.5", "2020-01-01"], "M8[ms]")
    times = RawRatings([1, 1], [1, 2], None, dates).timestamps
    assert times[0] - times[1] == 500_000_000
