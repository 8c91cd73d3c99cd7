"""Other examples than one interaction: a user at a time, or what came next."""

import numpy as np

from keras_dp_retrieval.data import batch_sources
from keras_dp_retrieval.data._tensorflow import import_tensorflow
from keras_dp_retrieval.data.digests import digest
from keras_dp_retrieval.data.orders import user_order
from keras_dp_retrieval.data.padding import PADDING, pad_indices
from keras_dp_retrieval.data.pipelines import EpochShuffle
from keras_dp_retrieval.data.ratings import Ratings
from keras_dp_retrieval.data.timeline import Timeline


class ByUser:
    """One example a user, with all the positives.

    They are padded when a batch is looked up: all users at once would take
    users times the most positives that one of them has.

    Args:
        ratings: `Ratings`, at least one.
        num_users: int. Rows of the user table.
        rating_range: The ratings that become 0 and 1.

    Attributes:
        user_rows: int32 `(n,)`, who has any.
        longest: int. The most positives of a user.
    """

    def __init__(self, ratings: Ratings, num_users: int, rating_range):
        self._ratings = ratings.take(user_order(ratings))
        self._range = rating_range
        counts = np.bincount(ratings.user_rows, minlength=num_users)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self.user_rows = np.flatnonzero(counts).astype("int32")
        self.longest = int(counts.max())

    def look_up(self, indices) -> list[np.ndarray]:
        """Returns the columns of some of the users.

        Args:
            indices: int `(batch,)`, indices into `user_rows`.

        Returns:
            `[users, candidates]` or `[users, candidates, scaled]`: int32
            `(batch,)`; int32 `(batch, longest)` padded with -1; float32
            `(batch, longest)` from 0 to 1, where there are ratings.
        """
        users = self.user_rows[indices]
        first, last = self._starts[users], self._starts[users + 1]
        inside, mask = pad_indices(last - first, self.longest)
        entries = first[:, None] + inside
        rows = np.where(mask, self._ratings.candidate_rows[entries], PADDING)
        columns = [users, rows]
        if self._ratings.ratings is not None:
            low, high = self._range
            ratings = self._ratings.ratings[entries]
            columns.append((ratings - low) / np.float32(high - low))
        return columns


def next_items(timeline: Timeline, example, epochs_seed: int, batch_size: int):
    """Returns one example for each item but a user's first, see `shuffled`.

    Its columns are users, the lengths of their histories before the item, and
    the item. Its `BatchSource` has the timeline.
    """
    later = np.flatnonzero(timeline.lengths)
    if not len(later):
        raise ValueError(
            "What came next needs a user with two interactions. Received: "
            f"{len(timeline.lengths):,} interactions in the train part, each "
            "of another user. Use `.train` or `by_user()`."
        )

    def look_up(indices):
        return [
            column[later[indices]]
            for column in (
                timeline.user_rows,
                timeline.lengths,
                timeline.candidate_rows,
            )
        ]

    epochs = EpochShuffle(len(later), epochs_seed)
    return shuffled(look_up, example, epochs, batch_size, timeline)


def shuffled(
    look_up,
    example,
    epochs: EpochShuffle,
    batch_size: int,
    timeline: Timeline | None = None,
):
    """Returns a `tf.data.Dataset` that shuffles the examples in every pass.

    Args:
        look_up: Function from indices `(batch,)` to columns `(batch, ...)`.
        example: Function from the columns of a batch to `(x, y)`.
        epochs: `EpochShuffle` of the examples. A pass counts when its last
            batch is handed over.
        batch_size: int. The last batch of a pass may be smaller.
        timeline: Optional `Timeline` that `look_up` reads.

    It is registered with its `BatchSource`.
    """
    tf = import_tensorflow()
    num_batches = -(-epochs.num_examples // batch_size)
    none = look_up(np.zeros(0, "int32"))

    def columns_of(number):
        order = epochs.order(epochs.next)
        if number == num_batches - 1:
            epochs.next += 1
        return look_up(order[number * batch_size : (number + 1) * batch_size])

    def batch(number):
        parts = tf.numpy_function(
            columns_of, [number], [column.dtype for column in none]
        )
        for part, column in zip(parts, none, strict=True):
            part.set_shape([None, *column.shape[1:]])
        return example(*parts)

    dataset = tf.data.Dataset.range(num_batches).map(batch)
    options = tf.data.Options()
    # A batch made in advance would not have been handed over.
    options.experimental_optimization.inject_prefetch = False
    dataset = dataset.with_options(options)
    source = _LookUpSource(look_up, example, epochs, batch_size)
    source.timeline = timeline
    batch_sources.register(dataset, source)
    return dataset


class _LookUpSource(batch_sources.BatchSource):
    """Of `shuffled`; see there."""

    def __init__(self, look_up, example, epochs: EpochShuffle, batch_size: int):
        self._look_up = look_up
        self._example = example
        self._epochs = epochs
        self._batch_size = batch_size

    def identity(self):
        epochs = self._epochs
        order = np.array([epochs.seed, epochs.next, self._batch_size])
        everything = self._look_up(np.arange(epochs.num_examples))
        return epochs.num_examples, digest(order, everything)

    def first_batch(self):
        order = self._epochs.order(self._epochs.next)
        return self._example(*self._look_up(order[: self._batch_size]))

    def start_at_epoch(self, epoch: int) -> None:
        self._epochs.start_at(epoch)
