"""FreshTies: no order is learned where the data has none."""

import keras


class FreshTies(keras.callbacks.Callback):
    """Deals interactions of one user and one time anew in every epoch.

    Many interactions have the same timestamp: three of four in MovieLens 100K.
    The order that they stand in is an accident. A tower that reads histories
    in order learns it by heart, unless it sees another one each time. The
    targets and the model's `histories` are dealt alike.

    Both are back in the given order whenever an epoch has ended, for what is
    measured on validation data, in what is saved at any time, and after a
    `fit` that failed. Put the callback before those that look at the model at
    the end of an epoch.

    Args:
        next_items: `tf.data.Dataset`, what `RetrievalDataset.next_items`
            returned and `fit` is given.
    """

    def __init__(self, next_items):
        super().__init__()
        if not hasattr(next_items, "timeline"):
            raise ValueError(
                "`next_items` must be what `RetrievalDataset.next_items()` "
                f"returned. Received: {next_items!r:.80}."
            )
        self._timeline = next_items.timeline

    def on_train_begin(self, logs=None):
        if getattr(self.model, "histories", None) is None:
            raise ValueError(
                "`FreshTies` deals a model's histories anew. Received: the "
                f"model {self.model.name!r}, which has none. Make it with "
                "`TwoTowerRetrieval.for_dataset(data)` and a tower that reads "
                "histories, such as `RecencyTower`."
            )
        rows = self.model.histories.candidate_rows
        if rows.shape[0] != len(self._timeline.candidate_rows) + 1:
            raise ValueError(
                "The model's histories must be those of the data set. "
                f"Received: histories of {rows.shape[0] - 1} interactions and "
                f"{len(self._timeline.candidate_rows)} in the data set."
            )

    def on_epoch_begin(self, epoch, logs=None):
        self._timeline.deal_ties(epoch)
        self.model.histories.replace_rows(self._timeline.candidate_rows)

    def on_epoch_end(self, epoch, logs=None):
        self._put_back()

    def on_test_begin(self, logs=None):
        self._put_back()

    def on_train_end(self, logs=None):
        self._put_back()

    def _put_back(self):
        self._timeline.put_back()
        self.model.histories.restore_rows()
