"""In which order interactions stand: by time, and by user and time.

NumPy sorts 64-bit numbers ten times faster than it sorts by several columns,
or finds out what order a column has. So what is to be sorted by is packed
into one number each, with the place of the entry in its last bits.
"""

import numpy as np

from keras_dp_retrieval.data.ratings import Ratings

# Dates are nanoseconds, but most clocks show seconds, milliseconds or
# microseconds.
_UNITS = (10**9, 10**6, 10**3)


def time_order(ratings: Ratings) -> np.ndarray:
    """`(n,)` int64 indices that sort interactions by time.

    Those of one time, or all without timestamps, stay as they came in.
    """
    if ratings.timestamps is None:
        return np.arange(len(ratings))
    return _indices_in_order(_time_keys(ratings))


def user_order(ratings: Ratings) -> np.ndarray:
    """`(n,)` int64 indices that sort by user, and by time within each.

    Those of one time, or all without timestamps, stay as they came in.
    """
    if ratings.timestamps is None:
        return _indices_in_order(_with_indices(ratings.user_rows))
    order = time_order(ratings)
    by_user = _with_indices(ratings.user_rows[order])
    return order[_indices_in_order(by_user)]


def latest_of_users(ratings: Ratings, num: int) -> list[np.ndarray]:
    """Each user's last interaction, the one before, and so on.

    Returns:
        `num` arrays `(num_users,)` int64 of indices, those of the last
        interactions first. A user who has none at that place has -1.
    """
    keys = _time_keys(ratings)
    users = ratings.user_rows
    latest = []
    for _ in range(num):
        newest = np.full(int(users.max(initial=-1)) + 1, -1, np.int64)
        np.maximum.at(newest, users, keys)
        found = newest >= 0
        newest[found] &= _mask(len(keys))
        keys[newest[found]] = -1
        latest.append(newest)
    return latest


def _time_keys(ratings: Ratings) -> np.ndarray:
    """Distinct numbers `(n,)` in the order of time, with the indices."""
    times = ratings.timestamps
    num = len(ratings)
    if times is None or not num:
        return np.arange(num)
    since = _since_first(times, 63 - num.bit_length())
    if since is None:
        since = np.empty(num, np.int64)
        since[np.argsort(times, kind="stable")] = np.arange(num)
    return _with_indices(since)


def _since_first(times: np.ndarray, bits: int) -> np.ndarray | None:
    """Times from the first on, in so few bits; None if they do not fit."""
    first, span = int(times.min()), int(times.max()) - int(times.min())
    if span.bit_length() <= bits:
        return times - first
    if span >= 2**63:
        return None
    for unit in _UNITS:
        if (span // unit).bit_length() <= bits:
            since, rest = np.divmod(times - first, unit)
            if not rest.any():
                return since
    return None


def _with_indices(numbers: np.ndarray) -> np.ndarray:
    """Numbers that leave the bits for it, with each one's index after it."""
    keys = numbers.astype(np.int64) << len(numbers).bit_length()
    keys |= np.arange(len(numbers))
    return keys


def _indices_in_order(keys: np.ndarray) -> np.ndarray:
    """Sorts keys in place, and takes the indices out of them."""
    keys.sort()
    keys &= _mask(len(keys))
    return keys


def _mask(num: int) -> int:
    return (1 << num.bit_length()) - 1
