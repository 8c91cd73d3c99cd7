"""The benchmark's made-up data has the order that it says."""

import numpy as np
import pytest

from benchmarks.ordered_data import KINDS, ordered_data


def made_up(kind, seed=0):
    data, groups, candidates = ordered_data(
        kind, seed, num_users=40, num_groups=5, group_size=16, length=20
    )
    return data, groups, candidates, (candidates - 1) // 16


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_the_seed_says_and_nobody_has_one_twice(kind):
    data, groups, candidates, of = made_up(kind)
    for user in candidates:
        assert len(set(user)) == 20
    again, other = made_up(kind)[2], made_up(kind, seed=1)[2]
    np.testing.assert_array_equal(candidates, again)
    assert (candidates != other).any()
    # Of 5 groups, noise hits the right one in one of five.
    assert 0.75 < (of == groups).mean() < 0.97
    # Users and what they have are those of the data set.
    seen = np.asarray(data.candidate_vocabulary.ids)[
        data.seen.of(np.array([1]))[0] - 1
    ]
    np.testing.assert_array_equal(seen, candidates[0, :-2])


def test_the_latest_two_groups_say_what_comes_next_and_one_does_not():
    _, groups, _, of = made_up("bigrams")
    after = {}
    for had, rule in zip(of, groups, strict=True):
        for index in range(2, 20):
            pair = had[index - 2], had[index - 1]
            after.setdefault(pair, set()).add(rule[index])
    assert all(len(found) == 1 for found in after.values())
    of_one = [
        {next(iter(after[pair])) for pair in after if pair[1] == group}
        for group in range(5)
    ]
    assert np.mean([len(found) for found in of_one]) > 2


def test_a_session_goes_on_in_order():
    _, groups, candidates, of = made_up("sessions")
    stays = groups[:, 1:] == groups[:, :-1]
    assert 0.7 < stays.mean() < 0.95
    both = stays & (of[:, 1:] == of[:, :-1])
    steps = np.diff(candidates, axis=1)[both]
    assert np.isin(steps, [1, 2, 3]).mean() > 0.5


def test_interests_take_turns():
    _, groups, _, _ = made_up("periods")
    periods = []
    for had in groups:
        period = next(p for p in range(1, 6) if had[0] == had[p])
        periods.append(period)
        np.testing.assert_array_equal(had[period:], had[:-period])
    assert set(periods) == {2, 3, 4, 5}
