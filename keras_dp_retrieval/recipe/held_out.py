"""HeldOut: what trials are compared by, NDCG of held-out interactions.

Ranked in NumPy: vectors are computed once a trial, and scores once for all
popularity weights. Nothing is sorted, as only the ranks of what was held out
matter. A program for it would take longer to compile than this to run.
"""

import dataclasses
import functools

import keras
import numpy as np

from keras_dp_retrieval import distribution
from keras_dp_retrieval.data.padding import PADDING, pad_indices
from keras_dp_retrieval.metrics import RankingTask, ndcg_at_k
from keras_dp_retrieval.model import encoding

# Users times candidates that are scored; of more users, a random sample. They
# are what the time of an evaluation follows.
MAX_SCORES = 100_000_000
MAX_USERS = 10_000

# Scores held at a time: 4 MB.
CHUNK = 2**20

# Candidates of which only the best is looked at first.
BLOCK = 32

MAX = np.finfo("float32").max

# Users whose vectors are computed at a time.
USERS_AT_A_TIME = 1024


@dataclasses.dataclass
class Encoded:
    """The vectors of a model, as it was when they were made.

    Attributes:
        user_vectors: float32 `(num_users, dim)`, of those who are evaluated.
        candidate_vectors: float32 `(num_candidates, dim)`.
        popularity: float32 `(num_candidates,)`. What the popularity weight is
            multiplied by.
        allowed: bool `(num_candidates,)`. Which may be recommended.
        popularity_weight: float. Of the model; may be changed.
    """

    user_vectors: np.ndarray
    candidate_vectors: np.ndarray
    popularity: np.ndarray
    allowed: np.ndarray
    popularity_weight: float


class HeldOut:
    """The held-out interactions of a data set's validation part.

    Args:
        data: Data set with a validation part.
        k: int. The length of the lists.
    """

    def __init__(self, data, k: int):
        self._task = _sample(RankingTask.prepare(data, "validation", (k,)))
        self._k = k
        self.user_rows = self._task.user_rows

    def encoder(self, model):
        """Returns a function without arguments: the model's `Encoded`.

        It is compiled once, and takes the weights as they are at each call.
        """
        from keras_dp_retrieval._jax import ranking
        from keras_dp_retrieval._jax.compiled_reads import compiled

        users = compiled(model, functools.partial(encoding.user_vectors, model))
        candidates = compiled(
            model,
            lambda: encoding.candidate_vectors(
                model, np.arange(model.num_candidates, dtype="int32")
            ),
        )

        def encode():
            size = min(USERS_AT_A_TIME, len(self.user_rows))
            vectors = []
            for start in range(0, len(self.user_rows), size):
                # The last begins early, to be of the same shape.
                first = min(start, len(self.user_rows) - size)
                found = users(self.user_rows[first : first + size])
                vectors.append(
                    np.asarray(ranking.local_copy(found))[start - first :]
                )
            counts = keras.ops.convert_to_numpy(model.candidate_counts)
            counts = counts.astype("float32")
            return Encoded(
                np.concatenate(vectors),
                np.asarray(ranking.local_copy(candidates())),
                np.log1p(counts / max(counts.mean(), 1e-9)),
                model.retrievable_mask()[: len(self._task.real)]
                & self._task.real,
                model.popularity_weight,
            )

        return encode

    def ndcg_of_users(self, encoded: Encoded, k: int) -> np.ndarray:
        """NDCG@k of each of `user_rows`, float64.

        Of several processes each ranks a share of the users.
        """
        values = np.zeros(len(self.user_rows))
        size = max(CHUNK // len(encoded.candidate_vectors), 1)
        number = distribution.process_index()
        count = distribution.process_count()
        for start in range(number * size, len(values), count * size):
            part = slice(start, start + size)
            values[part] = self._ndcg(encoded, part, k)
        if count == 1:
            return values
        from keras_dp_retrieval._jax import ranking

        return ranking.sum_over_processes(values)

    def _ndcg(self, encoded, part: slice, k: int) -> np.ndarray:
        users = self.user_rows[part]
        scores = encoded.user_vectors[part] @ encoded.candidate_vectors.T
        if encoded.popularity_weight:
            scores += encoded.popularity_weight * encoded.popularity
        scores[:, ~encoded.allowed] = -np.inf
        seen = self._task.seen.padded(users)
        numbers, places = np.nonzero(seen != PADDING)
        scores[numbers, seen[numbers, places]] = -np.inf
        numbers, rows = self._pairs(users, len(encoded.candidate_vectors))
        found = scores[numbers, rows]
        near = found >= np.maximum(_least_of_best(scores, k), -MAX)[numbers]
        numbers, rows, found = numbers[near], rows[near], found[near, None]
        others = scores[numbers]
        # Of equal scores the lower row goes first.
        before = np.arange(scores.shape[1]) < rows[:, None]
        ranks = np.count_nonzero(
            (others > found) | ((others == found) & before), axis=1
        )
        hits = np.zeros((len(users), k), bool)
        hits[numbers[ranks < k], ranks[ranks < k]] = True
        return ndcg_at_k(hits, self._task.num_held_out[part], k)

    def _pairs(self, users, num_candidates: int):
        """The held-out pairs of users: numbers of users, candidate rows."""
        pairs = self._task.held_out
        first = users.astype("int64") * num_candidates
        start = np.searchsorted(pairs, first)
        lengths = np.searchsorted(pairs, first + num_candidates) - start
        indices, mask = pad_indices(lengths, int(lengths.max(initial=0)))
        numbers, _ = np.nonzero(mask)
        rows = pairs[(start[:, None] + indices)[mask]] - first[numbers]
        return numbers, rows


def _least_of_best(scores, k: int) -> np.ndarray:
    """Below this is nobody's `k`-th best score, and there is little above."""
    num_blocks = scores.shape[1] // BLOCK
    if num_blocks <= k:
        return np.full(len(scores), -np.inf)
    blocks = scores[:, : num_blocks * BLOCK].reshape(len(scores), BLOCK, -1)
    best = blocks.max(axis=1)
    return np.partition(best, num_blocks - k, axis=1)[:, num_blocks - k]


def _sample(task: RankingTask) -> RankingTask:
    """The task for so many of its users that the scores are not too many."""
    most = min(MAX_USERS, max(MAX_SCORES // len(task.real), 1))
    if len(task.user_rows) <= most:
        return task
    draw = np.random.default_rng(0).permutation(len(task.user_rows))
    sample = np.sort(draw[:most])
    return dataclasses.replace(
        task,
        user_rows=task.user_rows[sample],
        num_held_out=task.num_held_out[sample],
    )
