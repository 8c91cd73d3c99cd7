"""Exact evaluation over the whole catalogue, in bounded memory.

Everything derives from one list per user: the candidates with the highest
scores among those the user has not seen yet. The metrics are summed over users
and divided once at the end, so that the result does not depend on how users
were divided over devices and processes.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from keras_dp_retrieval import _checks, distribution
from keras_dp_retrieval.data.interactions import Interactions
from keras_dp_retrieval.data.padding import PADDING, next_power_of_two
from keras_dp_retrieval.metrics.list_metrics import (
    ndcg_at_k,
    popularity_percentiles,
)
from keras_dp_retrieval.metrics.metric_sums import MetricSums
from keras_dp_retrieval.metrics.protocol import (
    check_protocol,
    recommended,
    vectors_of,
)
from keras_dp_retrieval.metrics.ranker import make_ranker

# A device scores its share of `USER_CHUNK_SIZE` users against
# `CANDIDATE_CHUNK_SIZE` candidates at a time: 64 MB of float32 scores on one
# device, and large enough matrices to keep it busy.
USER_CHUNK_SIZE = 1024
CANDIDATE_CHUNK_SIZE = 16_384


def evaluate(
    model,
    data,
    split: str = "test",
    ks: Sequence[int] = (10, 20),
    *,
    vectors: Callable | None = None,
    allow_trained: bool = False,
    user_chunk_size: int = USER_CHUNK_SIZE,
    candidate_chunk_size: int = CANDIDATE_CHUNK_SIZE,
) -> dict[str, float]:
    """Ranks the whole catalogue for every user and compares with a split.

    Exact: no sampled negatives. A user is everyone with at least one rating in
    `split`, and every rating there counts as relevant, whatever its value. The
    user's list is the best of all real candidates, by falling dot product and
    equal scores by rising row, without the user's seen items
    (`data.seen_before(split)`).

    Means over users, for each `k` of `ks`:

    - `recall_at_k`, `ndcg_at_k`, `mrr_at_k`, `hit_rate_at_k` and
      `precision_at_k`, as defined by the functions of these names.

    Over all lists together:

    - `coverage_at_k`: the share of the real candidates that are among the
      first `k` of at least one user (Herlocker et al., Evaluating
      collaborative filtering recommender systems, ACM TOIS 22(1), 2004).
    - `popularity_percentile_at_k`: the mean of `popularity_percentiles` of the
      training counts among the real candidates, over all recommendations. 0.5
      is what recommending at random gives, near 1 only the most popular is
      shown. NaN where nobody was recommended anything.

    And `num_users`, how many users the means are over.

    Held-out candidates count once per user, however often they were rated.
    All of them count in the denominators, also those that cannot be found:
    candidates seen before (only data with repeats has such) and
    unknown ones (row 0). Lists never hold the same candidate twice.

    The score matrix is never held as a whole: memory beyond the two tables of
    vectors is bounded by `user_chunk_size x candidate_chunk_size` numbers.
    Under a `keras.distribution.DataParallel` each device ranks its share of
    the users; several processes share the users too, and all of them must
    call, and get the same result.

    Any model can be evaluated, on any batches of users and candidates:

    ```python
    data = kdr.RetrievalDataset.from_batches(train_ratings, test=test_ratings)
    kdr.evaluate(
        model,
        data,
        vectors=lambda model: (
            model.user_embedding,
            model.candidate_embedding.embeddings,
        ),
    )
    ```

    Args:
        model: Anything with the methods `user_vectors(user_rows)`, or
            `encode_users(user_rows)` where there is none, -> `(batch, dim)`,
            and `candidate_vectors()` -> `(num_candidates, dim)`: tensors whose
            dot products are the scores. `user_rows` are int32 `(batch,)`. If
            it also has `retrievable_mask()` -> bool `(num_candidates,)`, no
            list holds the others; where they were held out they are misses.
        data: A data set of this package; `RetrievalDataset.from_batches`
            makes one of batches or arrays. From any other object the
            evaluation needs `ratings(split)`, `seen_before(split)`,
            `num_candidates`, `candidate_counts("train")` and, where not all
            rows are real candidates, `candidate_vocabulary` or
            `real_candidates`, bool `(num_candidates,)`.
        split: str. `"test"`, `"validation"` or `"train"`.
        ks: ints. Lengths of the lists; may exceed the catalogue.
        vectors: Optional function for a model without these methods: given
            the model, it returns `(encode_users, candidate_vectors)`, a
            function from user rows to `(batch, dim)` and the vectors
            `(num_candidates, dim)`.
        allow_trained: bool. Whether the split may hold interactions that the
            model was trained on, as it does when the data were split in
            another way then. A `TwoTowerRetrieval` made `for_dataset` knows.
            Interactions that the data set's own train part repeats are no
            reason to refuse: they are left out of the lists.
        user_chunk_size: int. Users ranked at a time, over all devices.
        candidate_chunk_size: int. Candidates scored at a time.

    Returns:
        dict from metric name, such as `"recall_at_10"`, to float.

    Raises:
        TypeError: If the model has no such methods and there is no `vectors`.
        ValueError: If the split holds no ratings, the model has fewer
            candidate vectors than the data has rows, knows other ids, was
            trained on interactions of the split, or its vectors are NaN or
            infinite, as after a training that diverged.
    """
    check_protocol(model, vectors)
    check_data(data)
    check = getattr(model, "check_evaluation", None)
    if check is not None:
        check(data, split, allow_trained=allow_trained)
    task = RankingTask.prepare(
        data,
        split,
        ks,
        user_chunk_size=user_chunk_size,
        candidate_chunk_size=candidate_chunk_size,
    )
    return task.run(model, vectors)


@dataclasses.dataclass(frozen=True, eq=False)
class RankingTask:
    """All of an evaluation that does not depend on the model.

    Worth keeping where the same split is evaluated again and again.

    Attributes:
        ks: tuple of ints, rising.
        user_rows: int32, shape `(num_users,)`: who is evaluated.
        num_held_out: int64, shape `(num_users,)`.
        held_out: int64, sorted: `user row * num_candidates + candidate row` of
            every held-out pair.
        seen: The `Interactions` left out of the lists.
        real: bool, shape `(num_candidates,)`: which rows are candidates.
        percentiles: float64, shape `(num_candidates,)`, 0 for other rows.
        user_chunk_size: int.
        candidate_chunk_size: int.
    """

    ks: tuple[int, ...]
    user_rows: np.ndarray
    num_held_out: np.ndarray
    held_out: np.ndarray
    seen: Interactions
    real: np.ndarray
    percentiles: np.ndarray
    user_chunk_size: int
    candidate_chunk_size: int

    @classmethod
    def prepare(
        cls,
        data,
        split: str,
        ks: Sequence[int],
        *,
        user_chunk_size: int = USER_CHUNK_SIZE,
        candidate_chunk_size: int = CANDIDATE_CHUNK_SIZE,
    ) -> "RankingTask":
        """Arguments and errors as in `evaluate`."""
        check_data(data)
        ks = check_ks(ks)
        held_out = _held_out_pairs(data, split)
        users, num_held_out = np.unique(
            held_out // data.num_candidates, return_counts=True
        )
        seen = data.seen_before(split)
        # Users with lists of seen candidates of about the same length share a
        # chunk, so that few lists are padded much.
        order = np.argsort(-np.diff(seen.indptr)[users], kind="stable")
        real = _real_candidates(data)
        percentiles = np.zeros(data.num_candidates)
        percentiles[real] = popularity_percentiles(
            data.candidate_counts("train")[real]
        )
        return cls(
            ks=ks,
            user_rows=users[order].astype("int32"),
            num_held_out=num_held_out[order],
            held_out=held_out,
            seen=seen,
            real=real,
            percentiles=percentiles,
            user_chunk_size=_checks.positive_int(
                "user_chunk_size", user_chunk_size
            ),
            candidate_chunk_size=_checks.positive_int(
                "candidate_chunk_size", candidate_chunk_size
            ),
        )

    def run(self, model, vectors=None) -> dict[str, float]:
        """Returns what `evaluate` returns for this model."""
        sums = MetricSums.zeros(len(self.ks), len(self.real))
        for part, rows in self._lists(model, vectors):
            hits = self._hits(self.user_rows[part], rows)
            num_held_out = self.num_held_out[part]
            sums.add(self.ks, hits, num_held_out, rows, self.percentiles)
        return sums.over_processes().means(self.ks, int(self.real.sum()))

    def ndcg_of_users(self, model, k: int) -> np.ndarray:
        """NDCG@k of each of `user_rows`, to compare models user by user.

        Args:
            model: As in `evaluate`.
            k: int. At most the longest of `ks`.
        """
        values = np.zeros(len(self.user_rows))
        for part, rows in self._lists(model):
            hits = self._hits(self.user_rows[part], rows)
            values[part] = ndcg_at_k(hits, self.num_held_out[part], k)
        if distribution.process_count() == 1:
            return values
        from keras_dp_retrieval._jax import ranking

        return ranking.sum_over_processes(values)

    def _lists(self, model, vectors=None) -> Iterator[tuple[slice, np.ndarray]]:
        """Yields the users of this process, a slice of all, and their lists."""
        rank = make_ranker(
            *vectors_of(model, vectors),
            recommended(model, vectors, self.real),
            num_candidates=len(self.real),
            # Beyond the catalogue a list would hold nothing but padding.
            k=min(self.ks[-1], max(int(self.real.sum()), 1)),
            chunk_size=self.candidate_chunk_size,
        )
        # A chunk is divided over all devices of all processes.
        multiple = distribution.row_multiple()
        for chunk, num_rows, width in self.chunks(multiple):
            users = self.user_rows[chunk]
            padding = np.full(num_rows - len(users), users[0])
            share = distribution.process_rows(num_rows)
            padded = np.concatenate([users, padding])
            rows = rank(padded, self._excluded(padded[share], width))
            first = min(share.start, len(users))
            last = min(share.stop, len(users))
            part = slice(chunk.start + first, chunk.start + last)
            yield part, rows[: last - first]

    def _hits(self, users, rows) -> np.ndarray:
        """Which of the lists `rows`, `(batch, list_length)`, were held out."""
        pairs = users.astype("int64")[:, None] * len(self.real) + rows
        indices = np.searchsorted(self.held_out, pairs)
        indices = np.minimum(indices, len(self.held_out) - 1)
        return (rows >= 0) & (self.held_out[indices] == pairs)

    def chunks(self, multiple: int) -> Iterator[tuple[slice, int, int]]:
        """Divides the users into chunks of few shapes.

        A shape costs a compilation, so the lists of seen candidates are padded
        to powers of two. Where a list is longer than `candidate_chunk_size`
        there are fewer users in the chunk, so that the lists take no more room
        than the scores.

        Args:
            multiple: int. The number of rows is a multiple of it.

        Yields:
            `(chunk, num_rows, width)`: a slice of `user_rows`, the number of
            rows to pad it to, and the length of the padded lists.
        """
        most = min(self.user_chunk_size, len(self.user_rows))
        room = self.user_chunk_size * self.candidate_chunk_size
        lengths = np.diff(self.seen.indptr)[self.user_rows]
        start = 0
        while start < len(self.user_rows):
            width = max(16, next_power_of_two(int(lengths[start])))
            num_rows = min(most, max(room // width, 1))
            num_rows = distribution.round_up(num_rows, multiple)
            yield slice(start, start + num_rows), num_rows, width
            start += num_rows

    def _excluded(self, user_rows, width: int) -> np.ndarray:
        """Seen items of these users, int32 `(batch, width)`, padded with -1."""
        seen = self.seen.padded(user_rows)
        missing = ((0, 0), (0, width - seen.shape[1]))
        return np.pad(seen, missing, constant_values=PADDING)


def check_ks(ks) -> tuple[int, ...]:
    """Returns the lengths in `ks` as a tuple of rising, distinct ints."""
    # An array without dimensions says that it can be iterated over.
    is_list = isinstance(ks, Iterable) and getattr(ks, "shape", None) != ()
    is_list = is_list and not isinstance(ks, (str, bytes))
    ks = list(ks) if is_list else ks
    if not is_list or not ks:
        raise ValueError(
            "`ks` must be a list of one or more lengths, such as (10, 20). "
            f"Received: ks={ks!r}."
        )
    return tuple(sorted({_checks.positive_int("ks", k) for k in ks}))


def check_data(data):
    """Raises unless `data` has what an evaluation reads."""
    needed = ("ratings", "seen_before", "num_candidates", "candidate_counts")
    missing = [name for name in needed if not hasattr(data, name)]
    if missing:
        raise TypeError(
            "`data` must be a data set of this package, or have "
            f"{', '.join(f'`{name}`' for name in needed)}. Received: a "
            f"{type(data).__name__} without {', '.join(missing)}. Make one "
            "with `RetrievalDataset.from_interactions` or, of batches, "
            "`RetrievalDataset.from_batches`."
        )


def _held_out_pairs(data, split: str) -> np.ndarray:
    """The distinct pairs of a split as `RankingTask.held_out` has them."""
    ratings = data.ratings(split)
    if ratings is None or not len(ratings):
        raise ValueError(
            f"There is nothing to evaluate: the data has no ratings in its "
            f"{split!r} part. Use another `split`, or make the data set with "
            "one that holds some out."
        )
    users = np.asarray(ratings.user_rows, "int64")
    return np.unique(users * data.num_candidates + ratings.candidate_rows)


def _real_candidates(data) -> np.ndarray:
    """Which rows stand for a candidate: bool, `(num_candidates,)`."""
    told = getattr(data, "real_candidates", None)
    if told is not None:
        return np.asarray(told, bool)
    vocabulary = getattr(data, "candidate_vocabulary", None)
    real = np.ones(data.num_candidates, bool)
    if vocabulary is not None:
        # Row 0 stands for unknown ids; rows after the last id are padding.
        real[0] = False
        real[len(vocabulary.ids) + 1 :] = False
    return real
