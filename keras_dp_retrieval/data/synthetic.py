"""Made-up interactions whose structure is known."""

import dataclasses

import numpy as np

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.raw_data import RawRatings

# A user's next interaction belongs to the taste of the one before with this
# probability, so that the recent past says more than the whole of it.
TASTE_PERSISTENCE = 0.9

# Share of the interactions that follow general popularity instead of a taste.
NOISE = 0.15

# The years over which MovieLens 100K to 25M were collected, roughly: seconds
# since 1970 from the beginning of 1998.
FIRST_SECOND = 883_612_800
SPAN_SECONDS = 4 * 365 * 24 * 3600


@dataclasses.dataclass(frozen=True, eq=False)
class SyntheticRatings:
    """Made-up ratings, with the truth behind them.

    Args:
        ratings: `RawRatings`. Users are numbered from 1 to `num_users`,
            candidates likewise; each has at least one interaction, and no
            pair comes twice. Rows are in no particular order.
        titles: dict. Raw id of a candidate to a title.
        candidate_tastes: `(num_candidates,)` int. The taste that candidate
            `i + 1` belongs to.
        user_tastes: `(num_users, num_tastes)` float. How much of what user
            `i + 1` has is of each taste, in the long run.
    """

    ratings: RawRatings
    titles: dict[int, str]
    candidate_tastes: np.ndarray
    user_tastes: np.ndarray


def synthetic_ratings(
    num_users: int,
    num_candidates: int,
    num_ratings: int,
    *,
    num_tastes: int = 12,
    popularity_exponent: float = 0.9,
    rating_range: tuple[float, float] = (1.0, 5.0),
    seed: int = 42,
) -> SyntheticRatings:
    """Makes up ratings that look like MovieLens.

    Every candidate belongs to one taste and has a popularity that falls with
    a power of its rank. Every user is fond of a few tastes, moves from one to
    another slowly, and picks from the current one by popularity. Users differ
    in how much they have; ratings of liked tastes are higher. The same
    arguments give the same ratings.

    Args:
        num_users: int.
        num_candidates: int.
        num_ratings: int. At least as many as users and as candidates, at most
            half of all pairs.
        num_tastes: int. Groups of candidates.
        popularity_exponent: float. 0: all candidates are equally popular;
            1: the second is half as popular as the first.
        rating_range: The lowest and the highest rating. In steps of 1, or of
            0.5 if the lowest is not whole.
        seed: int.
    """
    num_users = _checks.positive_int("num_users", num_users)
    num_candidates = _checks.positive_int("num_candidates", num_candidates)
    num_ratings = _checks.positive_int("num_ratings", num_ratings)
    num_tastes = _checks.positive_int("num_tastes", num_tastes)
    _checks.number_between("popularity_exponent", popularity_exponent, 0, 10)
    # With most pairs taken there is no structure left to learn.
    least, most = max(num_users, num_candidates), num_users * num_candidates
    if not least <= num_ratings <= max(least, most // 2):
        raise ValueError(
            "`num_ratings` must be at least the number of users and of "
            f"candidates, and at most half of all pairs: {least:,} to "
            f"{max(least, most // 2):,}. Received: num_ratings={num_ratings}."
        )
    rng = np.random.default_rng(_checks.non_negative_int("seed", seed))
    tastes = rng.integers(num_tastes, size=num_candidates)
    fondness = rng.dirichlet(np.full(num_tastes, 0.3), size=num_users)
    activity = _activity(rng, num_users, num_candidates, num_ratings)
    users = np.repeat(np.arange(num_users), activity)
    current = _drifting_tastes(rng, users, fondness)
    shelf = _Shelf(rng, tastes, num_tastes, popularity_exponent)
    candidates = _distinct_pairs(rng, users, current, shelf)
    candidates = _use_every_candidate(rng, candidates, num_candidates)
    stars = _stars(rng, users, candidates, tastes, fondness, rating_range)
    times = _times(rng, users, activity)
    order = rng.permutation(num_ratings)
    ratings = RawRatings(
        users[order] + 1,
        candidates[order] + 1,
        stars[order],
        times[order],
        name="synthetic ratings",
    )
    titles = {
        number: f"Synthetic movie {number}"
        for number in range(1, num_candidates + 1)
    }
    return SyntheticRatings(ratings, titles, tastes, fondness)


def _activity(rng, num_users, num_candidates, num_ratings):
    """Ratings of each user: log-normal, at least 1, in sum `num_ratings`."""
    # Nobody has more than half of the catalogue, unless all must.
    most = max(num_candidates // 2, -(-num_ratings // num_users))
    # A quarter of the mean for everybody, as nobody with fewer than 20 is in
    # MovieLens, where the mean is 106.
    floor = max(num_ratings // num_users // 4, 1)
    wish = rng.lognormal(0.0, 1.0, num_users)
    counts = np.full(num_users, floor)
    while (missing := num_ratings - counts.sum()) > 0:
        share = np.where(counts < most, wish, 0)
        extra = np.floor(missing * share / share.sum()).astype(int)
        # What rounding leaves goes one by one to the most active with room.
        left = missing - extra.sum()
        extra[np.argsort(-share, kind="stable")[:left]] += 1
        counts = np.minimum(counts + extra, most)
    return counts


def _drifting_tastes(rng, users, fondness):
    """The taste behind each interaction; a user's stand in time order."""
    fresh = _draw_rows(rng, fondness, users)
    start = np.concatenate([[True], users[1:] != users[:-1]])
    changes = start | (rng.random(len(users)) > TASTE_PERSISTENCE)
    last_change = np.maximum.accumulate(
        np.where(changes, np.arange(len(users)), 0)
    )
    return fresh[last_change]


def _draw_rows(rng, probabilities, rows):
    """Draws one column for each of `rows`, by that row's probabilities."""
    steps = np.cumsum(probabilities, axis=1)
    # Row r's steps lie between r and r + 1, so one sorted list holds them all.
    steps = (
        np.minimum(steps / steps[:, -1:], 1) + np.arange(len(steps))[:, None]
    )
    indices = np.searchsorted(
        steps.reshape(-1), rows + rng.random(len(rows)), side="right"
    )
    num_columns = probabilities.shape[1]
    return np.minimum(indices - rows * num_columns, num_columns - 1)


class _Shelf:
    """Draws candidates of a taste by their popularity."""

    def __init__(self, rng, tastes, num_tastes, exponent):
        ranks = rng.permutation(len(tastes)) + 1.0
        self._weights = ranks**-exponent
        self._order = np.argsort(tastes, kind="stable")
        steps = np.cumsum(self._weights[self._order])
        ends = np.cumsum(np.bincount(tastes, minlength=num_tastes))
        self._steps = steps / steps[-1]
        bounds = np.concatenate([[0.0], self._steps])
        self._low = bounds[np.concatenate([[0], ends[:-1]])]
        self._high = bounds[ends]

    def draw(self, rng, tastes, noise):
        """Returns a candidate for each taste; any where the taste is empty."""
        low, high = self._low[tastes], self._high[tastes]
        anything = (rng.random(len(tastes)) < noise) | (low >= high)
        low, high = np.where(anything, 0, low), np.where(anything, 1, high)
        at = low + (high - low) * rng.random(len(tastes))
        indices = np.searchsorted(self._steps, at, side="right")
        return self._order[np.minimum(indices, len(self._order) - 1)]


def _distinct_pairs(rng, users, tastes, shelf):
    """A candidate for each interaction, none twice for the same user."""
    num_candidates = len(shelf._order)
    candidates = np.full(len(users), -1)
    open_indices = np.arange(len(users))
    # Popular candidates are soon used up, so the rounds mix in more and more
    # of the unpopular ones.
    for round_number in range(30):
        if not len(open_indices):
            return candidates
        noise = max(NOISE, round_number / 20)
        candidates[open_indices] = shelf.draw(
            rng, tastes[open_indices], min(noise, 1)
        )
        open_indices = _repeats(users, candidates, num_candidates)
    for user in np.unique(users[open_indices]):
        mine = open_indices[users[open_indices] == user]
        has = np.setdiff1d(np.flatnonzero(users == user), mine)
        free = np.setdiff1d(np.arange(num_candidates), candidates[has])
        candidates[mine] = rng.choice(free, len(mine), replace=False)
    return candidates


def _repeats(users, candidates, num_candidates):
    """Indices of the pairs that occurred earlier already."""
    pairs = users * num_candidates + candidates
    order = np.argsort(pairs, kind="stable")
    same = pairs[order[1:]] == pairs[order[:-1]]
    return np.sort(order[1:][same])


def _use_every_candidate(rng, candidates, num_candidates):
    """Puts each candidate that nobody has in the place of a frequent one."""
    counts = np.bincount(candidates, minlength=num_candidates)
    unused = np.flatnonzero(counts == 0)
    _, first = np.unique(candidates, return_index=True)
    spare = np.setdiff1d(np.arange(len(candidates)), first)
    candidates[rng.choice(spare, len(unused), replace=False)] = unused
    return candidates


def _stars(rng, users, candidates, tastes, fondness, rating_range):
    """Ratings: mean about 3.5 of 5, higher for tastes the user is fond of."""
    low, high = rating_range
    step = 1.0 if float(low).is_integer() else 0.5
    generous = rng.normal(0, 0.4, len(fondness))
    quality = rng.normal(0, 0.5, len(tastes))
    liking = fondness[users, tastes[candidates]]
    stars = (
        3.5
        + generous[users]
        + quality[candidates]
        + (liking - liking.mean())
        + rng.normal(0, 0.8, len(users))
    )
    # Made for 1 to 5 stars, then stretched to the scale that is wanted.
    stars = low + (stars - 1) / 4 * (high - low)
    return np.clip(np.round(stars / step) * step, low, high)


def _times(rng, users, activity):
    """Seconds that rise from one interaction of a user to the next."""
    begin = rng.random(len(activity)) * 0.9
    length = rng.random(len(activity)) * (1 - begin)
    # Sorting all by user and moment orders the moments within each user.
    moments = np.sort(users + rng.random(len(users))) - users
    moments = begin[users] + length[users] * moments
    seconds = FIRST_SECOND + np.floor(moments * SPAN_SECONDS).astype(np.int64)
    # Two of one second would have no order: each is one later than the last.
    return seconds + _place_in_run(users)


def _place_in_run(users):
    start = np.concatenate([[0], np.flatnonzero(np.diff(users)) + 1])
    lengths = np.diff(np.concatenate([start, [len(users)]]))
    return np.arange(len(users)) - np.repeat(start, lengths)
