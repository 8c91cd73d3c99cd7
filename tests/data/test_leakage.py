"""What the test part shares with the train part is counted and said."""

import numpy as np

from keras_dp_retrieval.data.leakage import leakage_report
from keras_dp_retrieval.data.ratings import Ratings


def test_leakage_is_counted():
    train = Ratings(
        np.array([1, 1, 2]), np.array([5, 6, 5]), None, np.array([1, 2, 30])
    )
    test = Ratings(
        np.array([1, 2, 2, 3]),
        np.array([5, 6, 7, 7]),
        None,
        np.array([3, 30, 40, 29]),
    )
    report = leakage_report(train, test, "a note of the split")
    assert (report.num_train, report.num_test) == (3, 4)
    assert report.warnings[0] == "A note of the split."
    assert report.num_repeated == 1  # (1, 5)
    assert report.num_before_train_end == 2  # 3 and 29; 30 is not older
    assert report.num_unseen_users == 1
    assert report.num_unseen_candidates == 1
    lines = [line.rsplit(maxsplit=1) for line in str(report).split("\n")]
    assert lines[:5] == [
        ["test interactions", "4"],
        ["  also in train", "1"],
        ["  older than newest in train", "2"],
        ["users only in test", "1"],
        ["candidates only in test", "1"],
    ]
    assert "50% of the test" in str(report)
    assert "1 of 4 test interactions" in str(report)


def test_a_clean_split_has_nothing_to_warn_of():
    train = Ratings(np.array([1]), np.array([5]), None, np.array([1]))
    test = Ratings(np.array([1]), np.array([6]), None, np.array([2]))
    assert leakage_report(train, test).warnings == []
    assert leakage_report(train, test.take(slice(0))).warnings == []


def test_what_is_older_is_not_known_without_timestamps_of_both_parts():
    rows = np.array([1])
    timed, untimed = Ratings(rows, rows, None, rows), Ratings(rows, rows)
    for train, test in ((timed, untimed), (untimed, timed)):
        report = leakage_report(train, test)
        assert report.num_before_train_end is None
        assert "older than newest in train  no timestamps\n" in str(report)


def test_nothing_is_older_than_an_empty_train_part():
    rows = np.array([1])
    test = Ratings(rows, rows, None, np.array([-(2**63)]))
    report = leakage_report(test.take(slice(0)), test)
    assert report.num_before_train_end == 0
    assert report.num_unseen_users == report.num_unseen_candidates == 1
