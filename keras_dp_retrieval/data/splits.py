"""Which interactions are learned from, tuned on and tested on.

Every function returns a `Split` of index arrays into the interactions. The
three parts together hold every interaction exactly once, except that in
`split_tutorial` validation and test are the same rows.
"""

import dataclasses

import numpy as np

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data._tensorflow import import_tensorflow
from keras_dp_retrieval.data.orders import latest_of_users, time_order
from keras_dp_retrieval.data.ratings import Ratings

SPLITS = ("random", "tutorial", "by_time", "leave_last_out")

# The sizes of the Keras tutorial on data-parallel retrieval.
TUTORIAL_NUM_TRAIN = 80_000
TUTORIAL_NUM_TEST = 20_000


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Indices of the interactions of each part, int64.

    Args:
        train: `(num_train,)`. Its order is the order of the first epoch where
            the epochs are not shuffled.
        validation: `(num_validation,)`, may be empty.
        test: `(num_test,)`, may be empty.
        note: str. What a reader of the figures must know, or `""`.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    note: str = ""

    def __post_init__(self):
        for name in ("train", "validation", "test"):
            indices = np.asarray(getattr(self, name), np.int64)
            object.__setattr__(self, name, indices)


def check_split(split: str, has_timestamps: bool, test_given: bool) -> None:
    """Raises a ValueError if this split cannot be made of such data."""
    _checks.one_of("split", split, SPLITS)
    if split == "by_time" and not has_timestamps:
        raise ValueError(
            "`split='by_time'` needs timestamps. Received: none. Pass "
            "`timestamps=...` or use `split='random'`."
        )
    if split == "tutorial" and test_given:
        raise ValueError(
            "`split='tutorial'` has its own test part. Received: `test` or "
            "`validation` as well. Use `split='random'`."
        )


def make_split(
    split: str,
    ratings: Ratings,
    *,
    test_fraction: float,
    validation_fraction: float,
    seed: int,
) -> Split:
    """Returns the split named `split`, one of `SPLITS`.

    Args:
        split: str.
        ratings: `Ratings`. All interactions.
        test_fraction: float, of all interactions. With 0 the test part is
            empty; not used by `"tutorial"`. `"leave_last_out"` only looks
            whether it is 0.
        validation_fraction: float, of what the test leaves. Likewise.
        seed: int. Used by `"random"` and `"tutorial"`.
    """
    if split == "random":
        return split_random(
            len(ratings),
            test_fraction=test_fraction,
            validation_fraction=validation_fraction,
            seed=seed,
        )
    if split == "by_time":
        return split_by_time(
            ratings,
            test_fraction=test_fraction,
            validation_fraction=validation_fraction,
        )
    if split == "leave_last_out":
        return split_leave_last_out(
            ratings,
            test=test_fraction > 0,
            validation=validation_fraction > 0,
        )
    return split_tutorial(len(ratings), seed=seed)


def split_random(
    num_rows: int,
    *,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.1,
    seed: int = 42,
) -> Split:
    """Divides the rows at random, whatever their users and times.

    The permutation is `numpy.random.RandomState(seed).permutation(num_rows)`,
    which NumPy promises never to change. Its last part is the test, the end
    of what remains is validation.
    """
    order = np.random.RandomState(seed).permutation(num_rows)
    rest, test = _cut(order, round(test_fraction * num_rows))
    train, validation = _cut(rest, round(validation_fraction * len(rest)))
    return Split(train, validation, test)


def split_tutorial(num_rows: int, *, seed: int = 42) -> Split:
    """Divides the rows as the Keras tutorial does.

    tf.data shuffles all 100,000 rows with this seed; the first 80,000 are
    learned from, always in this order, and the other 20,000 serve as
    validation and as test.

    Raises:
        ValueError: If there are not exactly 100,000 rows.
    """
    check_tutorial_size(num_rows)
    train, test = _cut(_tf_data_order(num_rows, seed), TUTORIAL_NUM_TEST)
    note = "validation and test are the same rows"
    return Split(train, test, test, note)


def check_tutorial_size(num_rows: int) -> None:
    """Raises a ValueError if the tutorial's split would leave rows out."""
    expected = TUTORIAL_NUM_TRAIN + TUTORIAL_NUM_TEST
    if num_rows != expected:
        raise ValueError(
            f"`split='tutorial'` is for the {expected:,} ratings of MovieLens "
            f"100K. Received: {num_rows:,} interactions. Use "
            "`split='random'`."
        )


def _tf_data_order(num_rows: int, seed: int) -> np.ndarray:
    """The order `shuffle(num_rows, seed)` gives a tf.data pipeline."""
    tf = import_tensorflow()
    # In a graph of its own, so that `keras.utils.set_random_seed` does not
    # change the split: tf.data would mix the global seed in.
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        rows = tf.data.Dataset.range(num_rows).shuffle(
            num_rows, seed=seed, reshuffle_each_iteration=False
        )
        iterator = tf.compat.v1.data.make_one_shot_iterator(
            rows.batch(num_rows)
        )
        return session.run(iterator.get_next())


def split_by_time(
    ratings: Ratings,
    *,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.1,
) -> Split:
    """Cuts all interactions at two moments: no part looks ahead.

    Every interaction of an earlier part is older than every one of a later
    part. Those of one moment stay together, so that a part can be larger than
    its fraction.

    Raises:
        ValueError: If so many interactions are of one moment that a part
            would be empty.
    """
    times = np.asarray(ratings.timestamps)
    order = time_order(ratings)
    times = times[order]
    num_test = round(test_fraction * len(order))
    rest, test = _cut_before(order, times, num_test, "test")
    num_validation = round(validation_fraction * len(rest))
    train, validation = _cut_before(
        rest, times[: len(rest)], num_validation, "validation"
    )
    return Split(train, validation, test)


def _cut_before(order, times, num_last: int, part: str):
    """Cuts off `num_last` rows and those as old as the oldest of them."""
    if num_last == 0:
        return _cut(order, 0)
    oldest = times[len(times) - num_last]
    num_first = int(np.searchsorted(times, oldest, side="left"))
    if num_first == 0:
        raise ValueError(
            "`split='by_time'` needs interactions of different times. "
            f"Received: {len(times)} interactions of which the oldest "
            f"{int(np.sum(times == oldest))} are of one time, so that nothing "
            f"is left to learn from before the {part} part."
        )
    return order[:num_first], order[num_first:]


def split_leave_last_out(
    ratings: Ratings, *, test: bool = True, validation: bool = True
) -> Split:
    """Holds out every user's last interaction, and the one before.

    A user's interactions are ordered by time, those of one time as they came
    in; without timestamps all are. The last is test, the one before it is
    validation. Users with too few to leave one to learn from (fewer than 3)
    keep all of them in train, and the split's note says how many.
    """
    num_held_out = test + validation
    lengths = np.bincount(ratings.user_rows)
    enough = lengths > num_held_out
    latest = [
        newest[enough] for newest in latest_of_users(ratings, num_held_out)
    ]
    is_train = np.ones(len(ratings), bool)
    for indices in latest:
        is_train[indices] = False
    nothing = np.zeros(0, np.int64)
    test_rows = latest.pop(0) if test else nothing
    validation_rows = latest.pop(0) if validation else nothing
    num_short = np.count_nonzero((lengths > 0) & ~enough)
    note = (
        f"{num_short:,} users with fewer than {num_held_out + 1} "
        "interactions are in the train part only"
        if num_short
        else ""
    )
    train = np.flatnonzero(is_train)
    return Split(train, validation_rows, test_rows, note)


def _cut(order: np.ndarray, num_last: int) -> tuple[np.ndarray, np.ndarray]:
    middle = len(order) - num_last
    return order[:middle], order[middle:]
