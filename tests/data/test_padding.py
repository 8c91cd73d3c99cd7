"""Lists of different lengths as one padded array, and batches of one size."""

import numpy as np
import pytest

from keras_dp_retrieval.data.padding import (
    next_of_few_sizes,
    next_power_of_two,
    pad_lists,
)
from keras_dp_retrieval.data.row_padding import pad_rows


@pytest.mark.parametrize(
    ("number", "power"), [(0, 1), (1, 1), (2, 2), (3, 4), (16, 16), (17, 32)]
)
def test_the_next_power_of_two_is_not_less(number, power):
    assert next_power_of_two(number) == power


def test_there_are_few_sizes_and_little_padding():
    numbers = range(1, 2049)
    sizes = [next_of_few_sizes(number) for number in numbers]
    for number, size in zip(numbers, sizes, strict=True):
        assert number <= size < number * 9 / 8
    # Up to 16 each number; then eight for each power of two.
    assert len(set(sizes)) == 16 + 7 * 8


def test_lists_are_padded_at_the_end():
    lists = [np.array([5, 6, 7]), np.array([], "int64"), np.array([8])]
    padded = pad_lists(lists, 4)
    expected = [[5, 6, 7, -1], [-1] * 4, [8, -1, -1, -1]]
    np.testing.assert_array_equal(padded, expected)
    assert padded.dtype == np.int32


def test_no_lists_and_no_width_make_empty_arrays():
    assert pad_lists([], 3).shape == (0, 3)
    assert pad_lists([np.zeros(0, "int64")] * 2, 0).shape == (2, 0)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("num_rows", [5, 7])
@pytest.mark.parametrize(
    "sizes", [[5, 1, 5, 3], [4, 4, 4, 4], [5, 5, 5, 5], [1, 2, 1, 3]]
)
def test_padding_repeats_the_first_row_of_each_batch_with_weight_0(
    sizes, num_rows, weighted
):
    rng = np.random.default_rng(0)
    users = rng.integers(0, 9, (4, 5))
    histories = rng.integers(0, 9, (4, 5, 2))
    weights = rng.random((4, 5)).astype("float32") + 1 if weighted else None
    (x, y), padded = pad_rows(
        (users, {"history": histories, "rating": None}),
        sizes,
        num_rows,
        weights,
    )
    assert y["rating"] is None and padded.dtype == np.float32
    for step, size in enumerate(sizes):
        for row in range(num_rows):
            real = row < size
            origin = step, row if real else 0
            assert x[step, row] == users[origin]
            assert (
                y["history"][step, row].tolist() == histories[origin].tolist()
            )
            expected = (weights[origin] if weighted else 1) if real else 0
            assert padded[step, row] == expected


def test_padding_leaves_what_it_was_given_unchanged():
    rows, weights = np.arange(6).reshape(2, 3), np.ones((2, 3), "float32")
    for array in (rows, weights):
        array.flags.writeable = False
    padded, mask = pad_rows(rows, [3, 1], 4, weights)
    assert padded.tolist() == [[0, 1, 2, 0], [3, 3, 3, 3]]
    assert mask.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
