"""ShuffleTies: shuffles interactions that have the same timestamp."""

import keras

from keras_dp_retrieval.data.batch_sources import source_of


class ShuffleTies(keras.callbacks.Callback):
    """Shuffles a user's interactions that have the same timestamp.

    Many interactions share a timestamp: three of four in MovieLens 100K. Their
    order in the data is arbitrary, and a model that reads histories in order
    overfits to it unless it changes. The callback shuffles them at the start
    of every epoch, in the training targets and in the model's `histories`
    alike.

    The original order is restored at the end of every epoch, before
    validation, in every model that is saved, and after a `fit` that failed.
    Place the callback before callbacks that read the model at the end of an
    epoch.

    It belongs to the data of one `fit`, so it has no config.

    Args:
        dataset: What `RetrievalDataset.next_items` or `by_sequence` returned:
            the one that `fit` is given.

    Raises:
        ValueError: If `dataset` is another one; in `fit`, if the model has no
            histories or those of other data.

    Example:

    ```python
    dataset = data.next_items(batch_size=1024)
    model.fit(dataset, epochs=8, callbacks=[kdr.ShuffleTies(dataset)])
    ```
    """

    def __init__(self, dataset):
        super().__init__()
        source = source_of(dataset)
        if source is None or source.timeline is None:
            raise ValueError(
                "`dataset` must be what `RetrievalDataset.next_items()` or "
                f"`by_sequence()` returned. Received: dataset={dataset!r:.80}."
            )
        self._timeline = source.timeline

    def on_train_begin(self, logs=None):
        if getattr(self.model, "histories", None) is None:
            raise ValueError(
                "`ShuffleTies` needs a model with histories. Received: the "
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
        self._timeline.shuffle_ties(epoch)
        self.model.histories.replace_rows(self._timeline.candidate_rows)

    def on_epoch_end(self, epoch, logs=None):
        self._restore_order()

    def on_test_begin(self, logs=None):
        self._restore_order()

    def on_train_end(self, logs=None):
        self._restore_order()

    def _restore_order(self):
        self._timeline.restore_order()
        self.model.histories.restore_rows()
