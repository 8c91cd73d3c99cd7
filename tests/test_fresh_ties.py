"""Interactions of one time are dealt anew; everything else stays."""

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval.callbacks import FreshTies
from keras_dp_retrieval.data.examples import Timeline
from keras_dp_retrieval.towers import RecencyTower

NUM_ITEMS = 12


def tied_data(num_times=4):
    """Six users who had all items, at `num_times` different times."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(6), NUM_ITEMS)
    items = np.concatenate([rng.permutation(NUM_ITEMS) for _ in range(6)])
    times = np.tile(np.arange(NUM_ITEMS) * num_times // NUM_ITEMS, 6)
    return kdr.RetrievalDataset.from_interactions(
        users,
        items,
        timestamps=times,
        split="leave_last_out",
    )


def timeline_of(data):
    return Timeline(data.ratings("train"), data.num_users, seed=0)


def test_only_what_has_one_user_and_one_time_changes_places():
    data = tied_data()
    ratings = data.ratings("train")
    order = np.lexsort((ratings.timestamps, ratings.user_rows))
    times = ratings.timestamps[order]
    timeline = timeline_of(data)
    given = timeline.candidate_rows.copy()
    np.testing.assert_array_equal(given, data.seen.candidate_rows)
    dealt = []
    for epoch in (0, 1, 0):
        timeline.deal_ties(epoch)
        dealt.append(timeline.candidate_rows.copy())
        for user in np.unique(timeline.user_rows):
            for time in np.unique(times):
                here = (timeline.user_rows == user) & (times == time)
                assert set(dealt[-1][here]) == set(given[here])
    assert (dealt[0] != given).mean() > 0.3
    assert (dealt[0] != dealt[1]).mean() > 0.3
    np.testing.assert_array_equal(dealt[0], dealt[2])
    timeline.put_back()
    np.testing.assert_array_equal(timeline.candidate_rows, given)


def test_without_ties_nothing_changes():
    timeline = timeline_of(tied_data(num_times=NUM_ITEMS))
    given = timeline.candidate_rows.copy()
    timeline.deal_ties(0)
    np.testing.assert_array_equal(timeline.candidate_rows, given)


class Watcher(keras.callbacks.Callback):
    """Notes the model's histories, and that targets follow them."""

    def __init__(self, dataset):
        super().__init__()
        self.dataset = dataset
        self.seen = []

    def on_epoch_begin(self, epoch, logs=None):
        histories = self.model.histories
        starts = np.asarray(histories.starts)
        rows = np.asarray(histories.candidate_rows)
        self.seen.append(rows)
        for x, y in self.dataset:
            places = starts[x["user_id"].numpy()] + x["length"].numpy()
            np.testing.assert_array_equal(rows[places], y["movie_id"].numpy())


def test_targets_and_histories_are_dealt_alike_in_every_epoch():
    data = tied_data()
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, 4, user_tower=RecencyTower(data.num_candidates, 4)
    )
    given = np.asarray(model.histories.candidate_rows)
    model.compile("adam", steps_per_execution=2)
    examples = data.next_items(8)
    watcher = Watcher(examples)
    model.fit(
        examples, epochs=3, verbose=0, callbacks=[FreshTies(examples), watcher]
    )
    assert len(np.unique([given, *watcher.seen], axis=0)) == 4
    np.testing.assert_array_equal(model.histories.candidate_rows, given)


def test_other_data_are_refused():
    data = tied_data()
    with pytest.raises(ValueError, match=r"`RetrievalDataset.next_items\(\)`"):
        FreshTies(data.train)
    other = tied_data().with_validation_in_train()
    model = kdr.TwoTowerRetrieval.for_dataset(other, 4)
    model.compile("adam")
    with pytest.raises(ValueError, match=r"those of the data set\. Received"):
        model.fit(
            other.train,
            verbose=0,
            callbacks=[FreshTies(data.next_items(8))],
        )


def test_a_model_without_histories_is_refused():
    data = tied_data()
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="which has none"):
        model.fit(
            np.ones((4, 1)),
            np.ones((4, 1)),
            verbose=0,
            callbacks=[FreshTies(data.next_items(8))],
        )
