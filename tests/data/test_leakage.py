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
    report = leakage_report(train, test)
    assert report.num_repeated == 1  # (1, 5)
    assert report.num_before_train_end == 2  # 3 and 29; 30 is not older
    assert report.num_unseen_users == 1
    assert report.num_unseen_candidates == 1
    assert "50% of the test" in str(report)
    assert "1 of 4 test interactions" in str(report)


def test_a_clean_split_has_nothing_to_warn_of():
    train = Ratings(np.array([1]), np.array([5]), None, np.array([1]))
    test = Ratings(np.array([1]), np.array([6]), None, np.array([2]))
    assert leakage_report(train, test).warnings == []
    assert leakage_report(train, test.take(slice(0))).warnings == []
