"""Interactions as rows: entries that are taken, and arrays that stay."""

import numpy as np

from keras_dp_retrieval.data.dataset import RetrievalDataset
from keras_dp_retrieval.data.ratings import Ratings


def test_many_entries_are_taken_as_few_are():
    num = 100_001  # More than are taken at once.
    columns = np.random.default_rng(0).integers(0, 99, size=(4, num))
    indices = np.random.default_rng(1).permutation(num)[:-7]
    for given in (columns, [*columns[:2], None, columns[3]]):
        taken = Ratings(*given).take(indices)
        for name, column in zip(
            ("user_rows", "candidate_rows", "ratings", "timestamps"),
            given,
            strict=True,
        ):
            if column is None:
                assert getattr(taken, name) is None
            else:
                np.testing.assert_array_equal(
                    getattr(taken, name), column[indices]
                )


def test_an_array_that_is_changed_later_changes_no_data_set():
    ratings, times = np.ones(20, "float32"), np.arange(20)
    dates = times.astype("M8[ns]")
    ids = np.arange(20)
    for stamps in (times, dates):
        data = RetrievalDataset(ids, ids, ratings, stamps, test_fraction=0)
        before = data.get_config()
        for array in (ids, ratings, stamps):
            kept = array.copy()
            array[:] = array[::-1].copy()
            array[0] = array[1]
            assert data.get_config() == before
            array[:] = kept
