"""Lists of different lengths as one padded array."""

import numpy as np
import pytest

from keras_dp_retrieval.data.padding import next_power_of_two, pad_lists


@pytest.mark.parametrize(
    ("number", "power"), [(0, 1), (1, 1), (2, 2), (3, 4), (16, 16), (17, 32)]
)
def test_the_next_power_of_two_is_not_less(number, power):
    assert next_power_of_two(number) == power


def test_lists_are_padded_at_the_end():
    lists = [np.array([5, 6, 7]), np.array([], "int64"), np.array([8])]
    padded = pad_lists(lists, 4)
    expected = [[5, 6, 7, -1], [-1] * 4, [8, -1, -1, -1]]
    np.testing.assert_array_equal(padded, expected)
    assert padded.dtype == np.int32


def test_no_lists_and_no_width_make_empty_arrays():
    assert pad_lists([], 3).shape == (0, 3)
    assert pad_lists([np.zeros(0, "int64")] * 2, 0).shape == (2, 0)
