"""Other examples than one interaction: a user at a time, or what came next."""

import itertools
from typing import NoReturn

import numpy as np

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data import batch_sources
from keras_dp_retrieval.data._tensorflow import import_tensorflow
from keras_dp_retrieval.data.digests import digest_of
from keras_dp_retrieval.data.orders import user_order
from keras_dp_retrieval.data.padding import PADDING, pad_indices
from keras_dp_retrieval.data.pipelines import EpochShuffle
from keras_dp_retrieval.data.ratings import Ratings
from keras_dp_retrieval.data.row_padding import pad_rows, padded_size
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
        longest: int. The most positives of a user, or what is padded to.
    """

    def __init__(self, ratings: Ratings, num_users: int, rating_range):
        self._ratings = ratings.take(user_order(ratings))
        self._range = rating_range
        counts = np.bincount(ratings.user_rows, minlength=num_users)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self.user_rows = np.flatnonzero(counts).astype("int32")
        self.longest = int(counts.max())

    def pad_to(self, num_positives: int) -> None:
        """Pads lists to another length than that of the longest.

        Raises:
            ValueError: If it is shorter than the longest.
        """
        _checks.positive_int("num_positives", num_positives)
        if num_positives < self.longest:
            raise ValueError(
                "`num_positives` must be at least the most that a user has. "
                f"Received: {num_positives}, and a user with {self.longest}. "
                "Leave it out to pad to these."
            )
        self.longest = num_positives

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
    """Returns `BatchesLookedUp` of each item but a user's first.

    Its columns are users, the lengths of their histories before the item, and
    the item. It has the timeline.
    """
    later = np.flatnonzero(timeline.lengths)
    if not len(later):
        refuse_no_next_items(timeline)

    def look_up(indices):
        return [
            timeline.user_rows[later[indices]],
            timeline.lengths[later[indices]],
            timeline.candidate_rows[timeline.indices[later[indices]]],
        ]

    epochs = EpochShuffle(len(later), epochs_seed)
    return BatchesLookedUp(look_up, example, epochs, batch_size, timeline)


def refuse_no_next_items(timeline: Timeline) -> NoReturn:
    """Raises a ValueError that nothing came next."""
    raise ValueError(
        "What came next needs a user with two interactions. Received: "
        f"{len(timeline.lengths):,} interactions in the train part, each "
        "of another user. Use `.train` or `by_user()`."
    )


def as_dataset(source: "BatchesLookedUp"):
    """Returns a `tf.data.Dataset` of the same batches, with this source.

    A pass counts when its last batch is handed over.
    """
    tf = import_tensorflow()
    last = source.num_batches - 1

    def columns_of(number):
        source.position.check_whole()
        columns = source.columns(number)
        if number == last:
            source.position.end_pass(source.position.epoch)
        return columns

    kinds = source.kinds()

    def batch(number):
        parts = tf.numpy_function(
            columns_of, [number], [column.dtype for column in kinds]
        )
        for part, column in zip(parts, kinds, strict=True):
            part.set_shape(column.shape)
        return source.example(parts)

    dataset = tf.data.Dataset.range(source.num_batches).map(batch)
    options = tf.data.Options()
    # A batch made in advance would not have been handed over.
    options.experimental_optimization.inject_prefetch = False
    dataset = dataset.with_options(options)
    batch_sources.register(dataset, source)
    return dataset


class _LookedUp:
    """Batches of one size; see `BatchesLookedUp`."""

    def __init__(self, look_up, example, num_examples: int, batch_size: int):
        self._look_up = look_up
        self._example = example
        self.batch_size = min(batch_size, num_examples)
        self.num_rows = padded_size(self.batch_size)
        self.num_batches = -(-num_examples // self.batch_size)
        in_last = (num_examples - 1) % self.batch_size + 1
        self._is_padded = in_last < self.num_rows

    def columns(self, order, number: int) -> list[np.ndarray]:
        """The columns of a batch, and its weights if there is padding."""
        start = number * self.batch_size
        indices = order[start : start + self.batch_size]
        if not self._is_padded:
            return self._look_up(indices)
        (indices,), (weights,) = pad_rows(
            indices[None], [len(indices)], self.num_rows
        )
        return [*self._look_up(indices), weights]

    def example(self, columns) -> tuple:
        """`(x, y)` or `(x, y, sample_weight)`, as Keras takes it."""
        if not self._is_padded:
            return self._example(*columns)
        *columns, weights = columns
        return (*self._example(*columns), weights)


class BatchesLookedUp(batch_sources.BatchSource):
    """Batches of examples that are looked up, shuffled in every pass.

    Batches have one size, as those of `.train`: where examples are too few
    for it, they are padded with rows of weight 0, and every batch has weights.

    Args:
        look_up: Function from indices `(batch,)` to columns `(batch, ...)`.
        example: Function from the columns of a batch to `(x, y)`.
        epochs: `EpochShuffle` of the examples.
        batch_size: int. Real examples in each batch but the last; no more
            than there are.
        timeline: Optional `Timeline` that `look_up` reads.
    """

    def __init__(
        self,
        look_up,
        example,
        epochs: EpochShuffle,
        batch_size: int,
        timeline: Timeline | None = None,
    ):
        self._look_up = look_up
        self._batches = _LookedUp(
            look_up, example, epochs.num_examples, batch_size
        )
        self._epochs = epochs
        self.position = epochs.position
        self.timeline = timeline

    def columns(self, number: int) -> list[np.ndarray]:
        """The columns of a batch of the next pass."""
        return self._batches.columns(self._epochs.next_order(), number)

    def kinds(self) -> list[np.ndarray]:
        """Columns of the shapes and dtypes of every batch."""
        order = np.zeros(self._batches.batch_size, "int32")
        return self._batches.columns(order, 0)

    def example(self, columns) -> tuple:
        """`(x, y)` or `(x, y, sample_weight)` of the columns of a batch."""
        return self._batches.example(columns)

    @property
    def num_batches(self):
        return self._batches.num_batches

    def contents(self):
        num_examples = self._epochs.num_examples
        order = np.array([self._epochs.seed, self._batches.batch_size])
        # Not all at once, which may take much more memory than the data.
        parts = (
            self._look_up(np.arange(start, min(start + 4096, num_examples)))
            for start in range(0, num_examples, 4096)
        )
        return num_examples, digest_of(itertools.chain([order], parts))

    def first_batch(self):
        return self._batches.example(
            self._batches.columns(
                self._epochs.next_order(), self.position.batch
            )
        )

    def numpy_groups(self, steps: int):
        epoch, first = self.position.epoch, self.position.batch
        order = self._epochs.order(epoch)
        for start in range(first, self.num_batches, steps):
            stop = min(start + steps, self.num_batches)
            columns = [
                self._batches.columns(order, number)
                for number in range(start, stop)
            ]
            if stop == self.num_batches:
                self.position.end_pass(epoch)
            yield self._batches.example(
                [np.stack(several) for several in zip(*columns, strict=True)]
            )
