"""`by_sequence`: what came next, many targets of a user in one example."""

import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval.data.batch_sources import source_of
from keras_dp_retrieval.data.interactions import Interactions
from keras_dp_retrieval.data.ratings import Ratings
from keras_dp_retrieval.data.sequences import Pieces
from keras_dp_retrieval.data.timeline import Timeline


def data_of(lengths, **options):
    users = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    rng = np.random.default_rng(0)
    return kdr.RetrievalDataset.from_interactions(
        users,
        rng.integers(1, 12, len(users)),
        timestamps=np.arange(len(users)),
        test_fraction=0,
        validation_fraction=0,
        **options,
    )


def targets_of(dataset):
    """All `(user, length, target)`, in order."""
    found = []
    for x, y, *weights in dataset.as_numpy_iterator():
        user, length, target = x["user_id"], x["length"], y["candidate_id"]
        real = target >= 0
        if length.ndim == 2:
            user = np.broadcast_to(user[:, None], length.shape)
        if weights:
            real &= (weights[0] > 0).reshape((-1,) + (1,) * (real.ndim - 1))
        columns = user[real], length[real], target[real]
        found += zip(*columns, strict=True)
    return sorted(found)


@pytest.mark.parametrize("max_length", [1, 2, 3, 4, 7, 100])
def test_it_has_every_next_item_once(max_length):
    data = data_of([1, 2, 5, 9, 10, 30, 1])
    sequences = data.by_sequence(3, max_length)
    assert targets_of(sequences) == targets_of(data.next_items(7))
    columns = sequences.element_spec[1]["candidate_id"].shape[1]
    assert columns == min(max_length, 29)


def test_a_target_has_half_of_the_items_before_it():
    data = data_of([50])
    for x, y in data.by_sequence(1, 10).as_numpy_iterator():
        length, target = x["length"], y["candidate_id"]
        start = max(length.max() - 10, 0)
        # Column c belongs to item c of what the tower reads.
        np.testing.assert_array_equal(length[0], start + np.arange(1, 11))
        context = length[target >= 0] - start
        assert start == 0 or context.min() > 5


def test_a_short_history_is_one_example():
    data = data_of([11, 4])
    (x, y), *others = data.by_sequence(2, 10).as_numpy_iterator()
    assert not others
    short = int(np.argmin(x["length"].max(axis=1)))
    np.testing.assert_array_equal(
        x["length"][short], [1, 2, 3, 0, 0, 0, 0, 0, 0, 0]
    )
    np.testing.assert_array_equal(y["candidate_id"][short, 3:], -1)


def test_what_was_learned_before_is_history_and_no_target():
    earlier = Interactions(np.array([0, 0, 5]), np.array([7, 8, 9, 7, 8]))
    ratings = Ratings(
        np.array([1, 1, 1], "int32"),
        np.array([4, 5, 6], "int32"),
        None,
        np.array([1, 2, 3]),
    )
    timeline = Timeline(ratings, 2, seed=0, earlier=earlier)
    _, lengths, targets = Pieces(timeline, 4).look_up(np.arange(2))
    np.testing.assert_array_equal(targets, [[-1, -1, 4, 5], [-1, -1, -1, 6]])
    np.testing.assert_array_equal(lengths, [[3, 4, 5, 6], [4, 5, 6, 7]])


def test_ties_are_shuffled_in_targets_as_in_next_items():
    data = kdr.RetrievalDataset.from_interactions(
        np.ones(20, int),
        np.arange(20) + 1,
        timestamps=np.repeat([1, 2], 10),
        test_fraction=0,
        validation_fraction=0,
    )
    sequences, next_items = data.by_sequence(1), data.next_items(5)
    before = targets_of(sequences)
    for dataset in (sequences, next_items):
        source_of(dataset).timeline.shuffle_ties(3)
    shuffled = targets_of(sequences)
    assert shuffled == targets_of(next_items) != before
    # What came at the later time is still what came later.
    assert {target for _, length, target in shuffled if length >= 10} == {
        *range(11, 21)
    }


def test_nothing_came_next_is_an_error():
    with pytest.raises(ValueError, match="a user with two interactions"):
        data_of([1, 1]).by_sequence()
    with pytest.raises(ValueError, match="`max_length` must"):
        data_of([3]).by_sequence(4, 0)
