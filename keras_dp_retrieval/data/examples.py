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


def next_items(ratings: Ratings, num_users: int):
    """Returns the columns of one example for each item but a user's first.

    Returns:
        `(users, lengths, candidates)`, int32 `(n,)` each: `candidates` is
        what the user had next after `lengths` others, in time order.
    """
    if ratings.timestamps is None:
        raise ValueError(
            "What came next needs timestamps. Received: interactions without "
            "any. Make the data set with `timestamps=...`."
        )
    ratings = ratings.take(user_order(ratings))
    counts = np.bincount(ratings.user_rows, minlength=num_users)
    starts = np.cumsum(counts) - counts
    lengths = np.arange(len(ratings)) - starts[ratings.user_rows]
    later = lengths > 0
    return (
        ratings.user_rows[later],
        lengths[later].astype("int32"),
        ratings.candidate_rows[later],
    )


def shuffled(columns, example, epochs: Epochs, batch_size: int):
    """Returns a `tf.data.Dataset` that deals the rows anew in every pass.

    Args:
        columns: Arrays of `(n, ...)`.
        example: Function from the columns of a batch to `(x, y)`.
        epochs: `Epochs` of `n` examples: a pass counts when its last batch is
            handed over.
        batch_size: int. The last batch of a pass may be smaller.
    """
    tf = import_tensorflow()
    num_batches = -(-len(columns[0]) // batch_size)

    def look_up(number):
        order = epochs.order(epochs.next)
        if number == num_batches - 1:
            epochs.next += 1
        places = order[number * batch_size : (number + 1) * batch_size]
        return [column[places] for column in columns]

    def batch(number):
        parts = tf.numpy_function(
            look_up, [number], [column.dtype for column in columns]
        )
        for part, column in zip(parts, columns, strict=True):
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
