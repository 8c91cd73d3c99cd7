"""Interactions of equal time are shuffled; everything else stays."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_dp_retrieval as kdr
from keras_dp_retrieval.callbacks import ShuffleTies
from keras_dp_retrieval.data.timeline import Timeline
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
    shuffled = []
    for epoch in (0, 1, 0):
        timeline.shuffle_ties(epoch)
        shuffled.append(timeline.candidate_rows.copy())
        for user in np.unique(timeline.user_rows):
            for time in np.unique(times):
                here = (timeline.user_rows == user) & (times == time)
                assert set(shuffled[-1][here]) == set(given[here])
    assert (shuffled[0] != given).mean() > 0.3
    assert (shuffled[0] != shuffled[1]).mean() > 0.3
    np.testing.assert_array_equal(shuffled[0], shuffled[2])
    timeline.restore_order()
    np.testing.assert_array_equal(timeline.candidate_rows, given)


def test_without_ties_nothing_changes():
    timeline = timeline_of(tied_data(num_times=NUM_ITEMS))
    given = timeline.candidate_rows.copy()
    timeline.shuffle_ties(0)
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
        for x, y, *_ in self.dataset:
            indices = starts[x["user_id"].numpy()] + x["length"].numpy()
            np.testing.assert_array_equal(
                rows[indices], y["candidate_id"].numpy()
            )


def test_targets_and_histories_are_shuffled_alike_in_every_epoch():
    data = tied_data()
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, 4, user_tower=RecencyTower(data.num_candidates, 4)
    )
    given = np.asarray(model.histories.candidate_rows)
    model.compile("adam", steps_per_execution=2)
    examples = data.next_items(8)
    watcher = Watcher(examples)
    model.fit(
        examples,
        epochs=3,
        verbose=0,
        callbacks=[ShuffleTies(examples), watcher],
    )
    assert len(np.unique([given, *watcher.seen], axis=0)) == 4
    np.testing.assert_array_equal(model.histories.candidate_rows, given)


class OwnTarget(kdr.losses.Objective):
    """1 where the target is in the history that it is learned from."""

    mask_known_positives = True

    def call(self, batch):
        targets = ops.expand_dims(batch.candidate_rows, 1)
        found = ops.any(batch.known_positives == targets, axis=1)
        # The weights must have a gradient.
        nothing = 0.0 * ops.sum(batch.user_vectors, axis=1)
        return ops.cast(found, "float32") + nothing


def recency_model(data, objective="auto", **compile_options):
    model = kdr.TwoTowerRetrieval.for_dataset(
        data,
        4,
        objective=objective,
        user_tower=RecencyTower(data.num_candidates, 4),
    )
    model.compile("sgd", **compile_options)
    return model


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_no_target_that_is_learned_from_is_in_its_own_history(
    steps_per_execution,
):
    data = tied_data()
    model = recency_model(
        data, OwnTarget(), steps_per_execution=steps_per_execution
    )
    examples = data.next_items(8)
    history = model.fit(
        examples, epochs=2, verbose=0, callbacks=[ShuffleTies(examples)]
    ).history
    assert history["loss"] == [0.0, 0.0]


class Saboteur(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch == 2:
            raise RuntimeError("stop here")


@pytest.mark.slow
def test_a_fit_that_fails_leaves_the_histories_as_they_were():
    data = tied_data()
    model = recency_model(data)
    given = np.asarray(model.histories.candidate_rows)
    examples = data.next_items(8)
    with pytest.raises(RuntimeError, match="stop here"):
        model.fit(
            examples, verbose=0, callbacks=[ShuffleTies(examples), Saboteur()]
        )
    np.testing.assert_array_equal(model.histories.candidate_rows, given)


class Saver(keras.callbacks.Callback):
    """Saves the model in the middle of an epoch, and looks at its end."""

    def __init__(self, path):
        super().__init__()
        self.path = path
        self.at_epoch_end = []

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 2:
            self.model.save(self.path)

    def on_epoch_end(self, epoch, logs=None):
        rows = self.model.histories.candidate_rows
        self.at_epoch_end.append(np.asarray(rows))


def test_what_is_saved_and_measured_in_training_has_the_given_order(tmp_path):
    data = tied_data()
    model = recency_model(data)
    given = np.asarray(model.histories.candidate_rows)
    examples, saver = data.next_items(8), Saver(tmp_path / "m.keras")
    model.fit(examples, verbose=0, callbacks=[ShuffleTies(examples), saver])
    np.testing.assert_array_equal(saver.at_epoch_end, [given])
    saved = keras.saving.load_model(tmp_path / "m.keras").histories
    np.testing.assert_array_equal(saved.candidate_rows, given)


def test_other_data_are_refused():
    data = tied_data()
    with pytest.raises(ValueError, match=r"`RetrievalDataset.next_items\(\)`"):
        ShuffleTies(data.train)
    other = tied_data().with_validation_in_train()
    model = kdr.TwoTowerRetrieval.for_dataset(other, 4)
    model.compile("adam")
    with pytest.raises(ValueError, match=r"those of the data set\. Received"):
        model.fit(
            other.train,
            verbose=0,
            callbacks=[ShuffleTies(data.next_items(8))],
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
            callbacks=[ShuffleTies(data.next_items(8))],
        )
