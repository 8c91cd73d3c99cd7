"""Timelines: where each interaction stands, and how many came before it."""

import numpy as np
import pytest

from keras_dp_retrieval.data.interactions import Interactions
from keras_dp_retrieval.data.ratings import Ratings
from keras_dp_retrieval.data.timeline import Timeline

# Nobody has the rows 0, 3 and 5, and the last is beyond all that have any.
NUM_USERS = 6
RATINGS = Ratings(
    np.array([4, 1, 2, 1, 4, 1]),
    np.array([10, 11, 12, 13, 14, 15]),
    None,
    np.array([7, 3, 5, 1, 7, 3]),
)
# Of a table that had fewer users.
EARLIER = Interactions(np.array([0, 1, 3, 4]), np.array([20, 21, 22, 23]))


def lists_of(timeline, earlier=None):
    """The lists of all users, one interaction at a time."""
    lists = [[] for _ in range(NUM_USERS)]
    for user in range(earlier.num_users if earlier else 0):
        lists[user] += earlier.of(np.array([user]))[0].tolist()
    for user, length, index in zip(
        timeline.user_rows, timeline.lengths, timeline.indices, strict=True
    ):
        assert len(lists[user]) == length
        lists[user].append(int(timeline.candidate_rows[index]))
    return lists


@pytest.mark.parametrize("earlier", [None, EARLIER])
def test_an_interaction_knows_its_place_and_what_came_before(earlier):
    timeline = Timeline(RATINGS, NUM_USERS, seed=0, earlier=earlier)
    lists = lists_of(timeline, earlier)
    # By user, by time, and those of one time as they came in.
    new = [[], [13, 11, 15], [12], [], [10, 14], []]
    had = [[20], [21, 22], [23], [], [], []] if earlier else [[]] * NUM_USERS
    assert lists == [old + more for old, more in zip(had, new, strict=True)]
    np.testing.assert_array_equal(
        timeline.candidate_rows, np.concatenate(lists)
    )
    assert timeline.lengths.dtype == "int32"


def test_what_came_earlier_is_never_shuffled():
    timeline = Timeline(RATINGS, NUM_USERS, seed=0, earlier=EARLIER)
    seen = set()
    for epoch in range(20):
        timeline.shuffle_ties(epoch)
        seen.add(tuple(map(tuple, lists_of(timeline, EARLIER))))
    # Two users have two interactions of one time each.
    assert seen == {
        ((20,), (21, 22, 13, *first), (23, 12), (), second, ())
        for first in ((11, 15), (15, 11))
        for second in ((10, 14), (14, 10))
    }


def test_without_times_all_of_a_user_stays_in_the_order_it_came_in():
    ratings = Ratings(RATINGS.user_rows, RATINGS.candidate_rows)
    timeline = Timeline(ratings, NUM_USERS, seed=0)
    timeline.shuffle_ties(0)
    assert lists_of(timeline)[1] == [11, 13, 15]
