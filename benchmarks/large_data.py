"""Made-up interactions with a large catalogue, and the truth behind them.

- Candidates are in clusters: a cluster has a random direction of unit length
  in `NUM_TASTES` dimensions, and a candidate the direction of its cluster plus
  noise of its own (`OWN`), again of unit length.
- Popularity has a long tail, and says nothing of tastes: ranks are dealt out
  at random, and the candidate of rank r is drawn in proportion to
  `(r + HEAD)^-EXPONENT`. The head is flattened, as nothing that everybody has
  needs to be found.
- A user is fond of one to four clusters, unequally, and has some noise, too:
  the vector is `FONDNESS` times the weighted sum of the clusters' directions.
- Activity is log-normal, with a floor and a cap.
- A user draws candidates, none of them twice, in proportion to
  `popularity * exp(user . candidate)`, and in `NOISE` of the draws by
  popularity alone. So no model of user and candidate vectors is exact.

Nothing changes with time. Candidates that nobody drew are left out.
"""

import dataclasses

import numpy as np

NUM_TASTES = 32
OWN = 0.7
EXPONENT = 0.9
HEAD = 30
FONDNESS = 9.0
NOISE = 0.1
# Interactions of a user: a floor, and a cap of this many times the mean.
FLOOR = 5
CAP = 12
# Users whose probabilities are computed at a time, times candidates.
CHUNK = 2**24
# Candidates whose probabilities are added up first.
BLOCK = 64


@dataclasses.dataclass(frozen=True, eq=False)
class LargeData:
    """Interactions, and what they were drawn from.

    Attributes:
        user_rows: int32 `(num_interactions,)`, dense from 0.
        candidate_rows: int32 `(num_interactions,)`, dense from 0.
        is_held_out: bool `(num_interactions,)`. Every candidate has an
            interaction that is not.
        users: float32 `(num_users, NUM_TASTES)`.
        candidates: float32 `(num_candidates, NUM_TASTES)`.
        popularity: float32 `(num_candidates,)`, in sum about 1.
    """

    user_rows: np.ndarray
    candidate_rows: np.ndarray
    is_held_out: np.ndarray
    users: np.ndarray
    candidates: np.ndarray
    popularity: np.ndarray

    def probabilities(self, rows) -> np.ndarray:
        """Of each candidate as the next draw, float32 `(batch, candidates)`.

        Args:
            rows: int `(batch,)`, users from 0.
        """
        found = _weights(self.users[rows], self.candidates, self.popularity)
        found *= (1 - NOISE) / found.sum(axis=1, keepdims=True)
        found += NOISE * self.popularity / self.popularity.sum()
        return found

    def save(self, path) -> None:
        """Writes all of it to a file, for `load`."""
        np.savez(path, **dataclasses.asdict(self))

    @classmethod
    def load(cls, path) -> "LargeData":
        """Reads what `save` wrote."""
        with np.load(path) as columns:
            return cls(**columns)


def large_data(
    num_users, num_candidates, num_interactions, *, held_out=0.1, seed=0
) -> LargeData:
    """Makes up a data set; the same arguments give the same.

    Args:
        num_users: int.
        num_candidates: int. Those that nobody draws are left out, a few in a
            hundred where there are 17 interactions for each.
        num_interactions: int. About so many.
        held_out: float. Share of the interactions, drawn at random.
        seed: int.
    """
    rng = np.random.default_rng(seed)
    clusters = _unit(rng, (max(num_candidates // 1000, 8), NUM_TASTES))
    cluster = rng.integers(len(clusters), size=num_candidates)
    candidates = clusters[cluster] + OWN * _unit(
        rng, (num_candidates, NUM_TASTES)
    )
    candidates /= np.linalg.norm(candidates, axis=1, keepdims=True)
    ranks = rng.permutation(num_candidates)
    popularity = (ranks + float(HEAD)) ** -EXPONENT
    popularity = (popularity / popularity.sum()).astype("float32")
    users = _fond(rng, clusters, num_users)
    activity = _activity(rng, num_users, num_interactions, num_candidates)
    user_rows = np.repeat(np.arange(num_users, dtype="int32"), activity)
    drawn = _draw(rng, users, candidates, popularity, activity)
    there, candidate_rows = np.unique(drawn, return_inverse=True)
    return LargeData(
        user_rows,
        candidate_rows.astype("int32"),
        _held_out(rng, candidate_rows, held_out),
        users,
        candidates[there],
        popularity[there],
    )


def _unit(rng, shape):
    """Random directions: float32 rows of length 1."""
    vectors = rng.normal(size=shape).astype("float32")
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _fond(rng, clusters, num_users):
    """The vectors of users who are fond of one to four clusters each."""
    liked = rng.integers(len(clusters), size=(num_users, 4))
    weights = rng.dirichlet(np.ones(4), size=num_users)
    weights *= np.arange(4) < rng.integers(1, 5, num_users)[:, None]
    # Of unit length, so that whoever is fond of more is less so of each.
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    vectors = np.einsum("ul,uld->ud", weights, clusters[liked])
    vectors += 0.3 * _unit(rng, vectors.shape)
    return (FONDNESS * vectors).astype("float32")


def _activity(rng, num_users, num_interactions, num_candidates):
    """Interactions of each user, about `num_interactions` in sum."""
    mean = num_interactions / num_users
    most = int(min(CAP * mean, num_candidates // 4))
    wish = rng.lognormal(0.0, 1.0, num_users)
    wish *= (mean - FLOOR) / wish.mean()
    return np.minimum(np.rint(wish + FLOOR), most).astype(int)


def _weights(users, candidates, popularity):
    """What is not noise, in proportion: float32 `(users, candidates)`."""
    found = users @ candidates.T
    # Far from the largest float: users are about `FONDNESS` long, candidates 1.
    np.exp(found, out=found)
    found *= popularity
    return found


def _draw(rng, users, candidates, popularity, activity):
    """The candidates of all users, one user after the other."""
    size = max(CHUNK // len(candidates), 1)
    by_popularity = np.cumsum(popularity, dtype="float64")
    drawn = []
    for start in range(0, len(users), size):
        part = slice(start, start + size)
        weights = _weights(users[part], candidates, popularity)
        # A cumulative sum of all would take most of the time.
        firsts = np.arange(0, len(candidates), BLOCK)
        blocks = np.add.reduceat(weights, firsts, axis=1)
        steps = np.cumsum(blocks, axis=1, dtype="float64")
        for user, number in enumerate(activity[part]):
            of_user = weights[user], steps[user], by_popularity
            drawn.append(_distinct(rng, of_user, number))
    return np.concatenate(drawn)


def _distinct(rng, of_user, number):
    """The first so many different ones of a user's draws."""
    found = np.empty(0, int)
    while len(found) < number:
        found = np.append(found, _draws(rng, *of_user, 2 * number))
        _, first = np.unique(found, return_index=True)
        found = found[np.sort(first)]
    return found[:number]


def _draws(rng, weights, steps, by_popularity, number):
    """Candidates, with repeats; `steps` adds up the weights of blocks."""
    noise = rng.random(number) < NOISE
    found = _steps_at(by_popularity, rng.random(number) * by_popularity[-1])
    at = rng.random(number) * steps[-1]
    block = _steps_at(steps, at)
    at -= np.where(block > 0, steps[block - 1], 0.0)
    columns = block[:, None] * BLOCK + np.arange(BLOCK)
    inside = columns < len(weights)
    within = np.where(inside, weights[np.where(inside, columns, 0)], 0.0)
    place = (np.cumsum(within, axis=1) <= at[:, None]).sum(axis=1)
    last = np.minimum(BLOCK, len(weights) - block * BLOCK) - 1
    return np.where(noise, found, block * BLOCK + np.minimum(place, last))


def _steps_at(steps, values):
    found = np.searchsorted(steps, values, side="right")
    return np.minimum(found, len(steps) - 1)


def _held_out(rng, candidate_rows, share):
    """Which interactions are held out; of no candidate all are."""
    is_held_out = rng.random(len(candidate_rows)) < share
    counts = np.bincount(candidate_rows)
    left = np.bincount(candidate_rows[~is_held_out], minlength=len(counts))
    return is_held_out & (left > 0)[candidate_rows]
