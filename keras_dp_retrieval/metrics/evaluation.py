"""Exact evaluation over the whole catalogue, in bounded memory.

Everything derives from one list per user: the candidates with the highest
scores among those the user has not had yet. What the lists are worth is summed
over users and divided once at the end, so that the result does not depend on
how users were dealt out to devices and processes.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import keras
import numpy as np

from keras_dp_retrieval import _checks, distribution
from keras_dp_retrieval.data.interactions import Interactions
from keras_dp_retrieval.data.padding import PADDING, next_power_of_two
from keras_dp_retrieval.index import chunks
from keras_dp_retrieval.metrics.of_lists import (
    hit_rate_at_k,
    mrr_at_k,
    ndcg_at_k,
    popularity_percentiles,
    precision_at_k,
    recall_at_k,
)
from keras_dp_retrieval.metrics.vectors import (
    check_protocol,
    check_shapes,
    recommended,
    vectors_of,
)
from keras_dp_retrieval.training.finite import check_vectors

# A device scores its share of `USER_CHUNK_SIZE` users against
# `CANDIDATE_CHUNK_SIZE` candidates at a time: 64 MB of float32 scores on one
# device, and large enough matrices to keep it busy.
USER_CHUNK_SIZE = 1024
CANDIDATE_CHUNK_SIZE = 16_384

# Means over users; the functions of these names, followed by `_at_k`.
USER_METRICS = ("recall", "ndcg", "mrr", "hit_rate", "precision")


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
    equal scores by rising row, without what the user had before
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
    candidates that the user had before (only data with repeats has such) and
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
        sums = _Sums.zeros(len(self.ks), len(self.real))
        for places, rows in self._lists(model, vectors):
            users = self.user_rows[places]
            sums.add(self, users, self.num_held_out[places], rows)
        return sums.over_processes().means(self)

    def ndcg_of_users(self, model, k: int) -> np.ndarray:
        """NDCG@k of each of `user_rows`, to compare models user by user.

        Args:
            model: As in `evaluate`.
            k: int. At most the longest of `ks`.
        """
        found = np.zeros(len(self.user_rows))
        for places, rows in self._lists(model):
            hits = self._hits(self.user_rows[places], rows)
            found[places] = ndcg_at_k(hits, self.num_held_out[places], k)
        if distribution.process_count() == 1:
            return found
        from keras_dp_retrieval._jax import ranking

        return ranking.sum_over_processes(found)

    def _lists(self, model, vectors=None) -> Iterator[tuple[slice, np.ndarray]]:
        """Yields the users of this process, a slice of all, and their lists."""
        rank = _ranker(
            *vectors_of(model, vectors),
            recommended(model, vectors, self.real),
            self,
        )
        # A chunk is divided over all devices of all processes.
        multiple = distribution.row_multiple()
        for chunk, num_rows, width in self.chunks(multiple):
            users = self.user_rows[chunk]
            filler = np.full(num_rows - len(users), users[0])
            share = distribution.process_rows(num_rows)
            padded = np.concatenate([users, filler])
            rows = rank(padded, self._excluded(padded[share], width))
            first = min(share.start, len(users))
            last = min(share.stop, len(users))
            places = slice(chunk.start + first, chunk.start + last)
            yield places, rows[: last - first]

    def _hits(self, users, rows) -> np.ndarray:
        """Which of the lists `rows`, `(batch, list_length)`, were held out."""
        pairs = users.astype("int64")[:, None] * len(self.real) + rows
        place = np.searchsorted(self.held_out, pairs)
        place = np.minimum(place, len(self.held_out) - 1)
        return (rows >= 0) & (self.held_out[place] == pairs)

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
        """What those users have had: int32, `(batch, width)`, -1 at the end."""
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


def best_rows(
    user_vectors, candidate_vectors, excluded_rows, allowed, *, k, chunk_size
):
    """The rows of the best `k` candidates of each user, -1 where none is."""
    _, rows = chunks.best_of_rows(
        user_vectors,
        candidate_vectors,
        excluded_rows,
        allowed,
        candidate_scales=None,
        first_row=0,
        num_rows=candidate_vectors.shape[0],
        k=k,
        chunk_size=chunk_size,
    )
    return rows


def _ranker(
    encode_users, candidate_vectors, may_be_listed, task: RankingTask
) -> Callable:
    """Returns `rank(user_rows, excluded_rows)` -> rows, NumPy in and out.

    `user_rows` are those of all processes, `excluded_rows` and the result
    those of this process.
    """
    candidates = keras.ops.convert_to_tensor(candidate_vectors)
    num_rows = int(candidates.shape[0]) if candidates.shape else 0
    if num_rows < len(task.real):
        raise ValueError(
            "The model must have a vector for every candidate of the data. "
            f"Received: {num_rows} candidate vectors for "
            f"{len(task.real)} rows."
        )
    allowed = np.zeros(num_rows, bool)
    allowed[: len(task.real)] = may_be_listed
    options = {
        # Beyond the catalogue a list would hold nothing but filler.
        "k": min(task.ks[-1], max(int(task.real.sum()), 1)),
        "chunk_size": min(task.candidate_chunk_size, num_rows),
    }

    def vectors_of_users(user_rows):
        vectors = keras.ops.convert_to_tensor(encode_users(user_rows))
        check_shapes(vectors, candidates, len(user_rows))
        return vectors

    if keras.backend.backend() == "jax":
        return _jax_ranker(vectors_of_users, candidates, allowed, options)
    check_vectors("candidate", candidates, allowed)
    usable = keras.ops.convert_to_tensor(allowed)

    def rank(user_rows, excluded_rows):
        vectors = vectors_of_users(user_rows)
        check_vectors("user", vectors)
        excluded = keras.ops.convert_to_tensor(excluded_rows)
        rows = best_rows(vectors, candidates, excluded, usable, **options)
        return keras.ops.convert_to_numpy(rows)

    return rank


def _jax_ranker(encode_users, candidates, allowed, options) -> Callable:
    """A `_ranker` that divides this process's users over its devices."""
    from keras_dp_retrieval._jax import ranking

    strategy = keras.distribution.distribution()
    mesh = ranking.local_mesh(strategy and strategy.device_mesh)
    program = ranking.compiled_ranker(best_rows, mesh, **options)
    candidates = ranking.local_copy(candidates)
    check_vectors("candidate", candidates, allowed)
    candidates = ranking.replicate(candidates, mesh)
    allowed = ranking.replicate(allowed, mesh)

    def rank(user_rows, excluded_rows):
        # Every process computes the vectors of all users of the chunk: the
        # model may be one program over all processes, so they call it alike.
        vectors = ranking.local_copy(encode_users(user_rows))
        check_vectors("user", vectors)
        if len(excluded_rows) < len(user_rows):
            vectors = vectors[distribution.process_rows(len(user_rows))]
        rows = program(
            ranking.shard_rows(vectors, mesh),
            candidates,
            ranking.shard_rows(excluded_rows, mesh),
            allowed,
        )
        return np.asarray(rows)

    return rank


@dataclasses.dataclass
class _Sums:
    """What is added up over users, chunks and processes.

    Attributes:
        of_users: float64, shape `(num_ks, 5)`: sums of `USER_METRICS`.
        of_lists: float64, shape `(num_ks, 2)`: the sum of the percentiles of
            what was recommended, and how many recommendations there were.
        num_users: float64, shape `()`.
        shown: bool, shape `(num_ks, num_candidates)`: recommended to anyone.
    """

    of_users: np.ndarray
    of_lists: np.ndarray
    num_users: np.ndarray
    shown: np.ndarray

    @classmethod
    def zeros(cls, num_ks: int, num_candidates: int) -> "_Sums":
        return cls(
            of_users=np.zeros((num_ks, len(USER_METRICS))),
            of_lists=np.zeros((num_ks, 2)),
            num_users=np.zeros(1),
            shown=np.zeros((num_ks, num_candidates), bool),
        )

    def add(self, task: RankingTask, users, num_held_out, rows) -> None:
        """Adds the lists `rows`, `(batch, list_length)`, of those users."""
        filled = rows >= 0
        hits = task._hits(users, rows)
        self.num_users += len(users)
        for index, k in enumerate(task.ks):
            self.of_users[index] += [
                recall_at_k(hits, num_held_out, k).sum(),
                ndcg_at_k(hits, num_held_out, k).sum(),
                mrr_at_k(hits, k).sum(),
                hit_rate_at_k(hits, k).sum(),
                precision_at_k(hits, k).sum(),
            ]
            recommended = rows[:, :k][filled[:, :k]]
            self.shown[index, recommended] = True
            self.of_lists[index] += [
                task.percentiles[recommended].sum(),
                len(recommended),
            ]

    def over_processes(self) -> "_Sums":
        """The sums of all processes."""
        if distribution.process_count() == 1:
            return self
        from keras_dp_retrieval._jax import ranking

        return _Sums(
            of_users=ranking.sum_over_processes(self.of_users),
            of_lists=ranking.sum_over_processes(self.of_lists),
            num_users=ranking.sum_over_processes(self.num_users),
            shown=ranking.any_over_processes(self.shown),
        )

    def means(self, task: RankingTask) -> dict[str, float]:
        """The result of `evaluate`: here, once, the sums are divided."""
        num_users = float(self.num_users[0])
        result = {}
        for index, k in enumerate(task.ks):
            for name, total in zip(
                USER_METRICS, self.of_users[index], strict=True
            ):
                result[f"{name}_at_{k}"] = float(total / num_users)
            shown = self.shown[index].sum() / max(task.real.sum(), 1)
            result[f"coverage_at_{k}"] = float(shown)
            total, count = self.of_lists[index].tolist()
            result[f"popularity_percentile_at_{k}"] = (
                total / count if count else math.nan
            )
        return {**result, "num_users": num_users}
