"""Other examples than one interaction: a user at a time, or what came next."""

import numpy as np

from keras_dp_retrieval.data._tensorflow import import_tensorflow
from keras_dp_retrieval.data.batches import Epochs
from keras_dp_retrieval.data.ratings import PADDING, Ratings, user_order

# A user with more positives becomes several examples: the padding of all the
# others would otherwise follow the one who has the most.
MOST_POSITIVES = 1024


def by_user(ratings: Ratings, num_users: int, rating_range):
    """Returns the columns of one example a user, with all the positives.

    Returns:
        `(users, candidates, scaled)`: int32 `(n,)`; int32 `(n, positives)`
        padded with -1; float32 `(n, positives)` from 0 to 1, or None.
    """
    ratings = ratings.take(user_order(ratings))
    counts = np.bincount(ratings.user_rows, minlength=num_users)
    starts = np.concatenate([[0], np.cumsum(counts)])
    pieces = [
        (user, start, min(start + MOST_POSITIVES, starts[user + 1]))
        for user in np.flatnonzero(counts)
        for start in range(starts[user], starts[user + 1], MOST_POSITIVES)
    ]
    users, first, last = np.array(pieces).T
    places = first[:, None] + np.arange((last - first).max())
    inside = places < last[:, None]
    places = np.where(inside, places, 0)
    candidates = np.where(inside, ratings.candidate_rows[places], PADDING)
    scaled = None
    if ratings.ratings is not None:
        low, high = rating_range
        scaled = (ratings.ratings[places] - low) / np.float32(high - low)
    return users.astype("int32"), candidates, scaled


class Timeline:
    """All interactions, by user and then by time.

    Those of one user and one time have no order, though they stand in one.
    What was had next is then an accident, which a model learns by heart; so
    they can be dealt anew.

    Args:
        ratings: `Ratings` with timestamps.
        num_users: int. Rows of the user table.
        seed: int. Of the dealing.

    Attributes:
        user_rows: int32 `(n,)`.
        lengths: int32 `(n,)`. How many the user had before.
        candidate_rows: int32 `(n,)`. As `Interactions` has them, until some
            are dealt.
    """

    def __init__(self, ratings: Ratings, num_users: int, seed: int):
        if ratings.timestamps is None:
            raise ValueError(
                "What came next needs timestamps. Received: interactions "
                "without any. Make the data set with `timestamps=...`."
            )
        ratings = ratings.take(user_order(ratings))
        counts = np.bincount(ratings.user_rows, minlength=num_users)
        starts = np.cumsum(counts) - counts
        places = np.arange(len(ratings))
        self.user_rows = ratings.user_rows
        self.lengths = (places - starts[ratings.user_rows]).astype("int32")
        self.candidate_rows = ratings.candidate_rows.copy()
        self._given = ratings.candidate_rows
        self._seed = seed
        is_new = np.ones(len(ratings) + 1, bool)
        is_new[1:-1] = (self.lengths[1:] == 0) | (
            np.diff(np.asarray(ratings.timestamps)) != 0
        )
        self._tied = np.flatnonzero(~(is_new[:-1] & is_new[1:]))
        self._groups = np.cumsum(is_new)[self._tied]

    def deal_ties(self, epoch: int) -> None:
        """Puts what has one time into an order drawn from seed and epoch."""
        rng = np.random.default_rng([self._seed, epoch])
        order = np.lexsort((rng.random(len(self._tied)), self._groups))
        self.candidate_rows[self._tied] = self._given[self._tied[order]]

    def put_back(self) -> None:
        """Restores the order in which the interactions came in."""
        self.candidate_rows[:] = self._given


def next_items(timeline: Timeline, example, epochs_seed: int, batch_size: int):
    """Returns one example for each item but a user's first, see `shuffled`.

    Its columns are users, how much they had had, and what they had next. The
    `tf.data.Dataset` has the timeline as `timeline`.
    """
    later = np.flatnonzero(timeline.lengths)

    def look_up(places):
        return [
            column[later[places]]
            for column in (
                timeline.user_rows,
                timeline.lengths,
                timeline.candidate_rows,
            )
        ]

    dataset = shuffled(
        look_up, example, Epochs(len(later), epochs_seed), batch_size
    )
    dataset.timeline = timeline
    return dataset


def shuffled(look_up, example, epochs: Epochs, batch_size: int):
    """Returns a `tf.data.Dataset` that deals the examples anew in every pass.

    Args:
        look_up: Function from places `(batch,)` to columns `(batch, ...)`.
        example: Function from the columns of a batch to `(x, y)`.
        epochs: `Epochs` of `n` examples: a pass counts when its last batch is
            handed over.
        batch_size: int. The last batch of a pass may be smaller.
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

    def start_at_epoch(epoch: int):
        epochs.next = epoch

    dataset = tf.data.Dataset.range(num_batches).map(batch)
    options = tf.data.Options()
    # A batch made in advance would not have been handed over.
    options.experimental_optimization.inject_prefetch = False
    dataset = dataset.with_options(options)
    # As the train part has it.
    dataset.start_at_epoch = start_at_epoch
    return dataset
