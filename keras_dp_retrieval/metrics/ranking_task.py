"""RankingTask: what an evaluation prepares once and runs for any model."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from keras_dp_retrieval import _checks, distribution
from keras_dp_retrieval.data.interactions import Interactions
from keras_dp_retrieval.data.padding import (
    PADDING,
    next_of_few_sizes,
    next_power_of_two,
)
from keras_dp_retrieval.data.row_padding import pad_rows
from keras_dp_retrieval.metrics.cold_groups import ColdGroups, ColdSums
from keras_dp_retrieval.metrics.evaluated_data import (
    check_data,
    check_ks,
    held_out_pairs,
    real_candidates,
)
from keras_dp_retrieval.metrics.list_metrics import (
    ndcg_at_k,
    popularity_percentiles,
)
from keras_dp_retrieval.metrics.metric_sums import MetricSums
from keras_dp_retrieval.metrics.protocol import recommended, vectors_of
from keras_dp_retrieval.metrics.ranker import make_ranker

# A device scores its share of `USER_CHUNK_SIZE` users against
# `CANDIDATE_CHUNK_SIZE` candidates at a time: 64 MB of float32 scores on one
# device, and large enough matrices to keep it busy.
USER_CHUNK_SIZE = 1024
CANDIDATE_CHUNK_SIZE = 16_384


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
        max_history: Optional int. How much of `seen` a model is given that
            needs histories; None for all.
        user_chunk_size: int.
        candidate_chunk_size: int.
        cold: Optional `ColdGroups`, to evaluate them, too.
    """

    ks: tuple[int, ...]
    user_rows: np.ndarray
    num_held_out: np.ndarray
    held_out: np.ndarray
    seen: Interactions
    real: np.ndarray
    percentiles: np.ndarray
    max_history: int | None
    user_chunk_size: int
    candidate_chunk_size: int
    cold: ColdGroups | None = None

    @classmethod
    def prepare(
        cls,
        data,
        split: str,
        ks: Sequence[int],
        *,
        cold: bool = False,
        user_chunk_size: int = USER_CHUNK_SIZE,
        candidate_chunk_size: int = CANDIDATE_CHUNK_SIZE,
    ) -> "RankingTask":
        """Arguments and errors as in `evaluate`."""
        check_data(data)
        cold = _checks.flag("cold", cold)
        ks = check_ks(ks)
        held_out = held_out_pairs(data, split)
        users, num_held_out = np.unique(
            held_out // data.num_candidates, return_counts=True
        )
        seen = data.seen_before(split)
        # Users with lists of seen candidates of about the same length share a
        # chunk, so that few lists are padded much.
        order = np.argsort(-np.diff(seen.indptr)[users], kind="stable")
        users = users[order].astype("int32")
        real = real_candidates(data)
        percentiles = np.zeros(data.num_candidates)
        percentiles[real] = popularity_percentiles(
            data.candidate_counts("train")[real]
        )
        return cls(
            ks=ks,
            user_rows=users,
            num_held_out=num_held_out[order],
            held_out=held_out,
            seen=seen,
            real=real,
            percentiles=percentiles,
            max_history=getattr(data, "max_history", None),
            user_chunk_size=_checks.positive_int(
                "user_chunk_size", user_chunk_size
            ),
            candidate_chunk_size=_checks.positive_int(
                "candidate_chunk_size", candidate_chunk_size
            ),
            cold=ColdGroups.of(data, users, held_out) if cold else None,
        )

    def run(self, model, vectors=None) -> dict[str, float]:
        """Returns what `evaluate` returns for this model."""
        sums = MetricSums.zeros(len(self.ks), len(self.real))
        cold_sums = among = None
        if self.cold is not None:
            cold_sums = ColdSums(self.cold, len(self.ks))
            among = self.cold.cold_candidates
        for part, rows, *others in self._lists(model, vectors, among):
            users, num_held_out = self.user_rows[part], self.num_held_out[part]
            hits = self._hits(users, rows)
            sums.add(self.ks, hits, num_held_out, rows, self.percentiles)
            if cold_sums is not None:
                among_cold = self._hits(users, *others)
                cold_sums.add(
                    self.ks, part, rows, hits, num_held_out, among_cold
                )
        sums = sums.over_processes()
        result = sums.means(self.ks, int(self.real.sum()))
        if cold_sums is None:
            return result
        return {**result, **cold_sums.means(self.ks, self.real, sums.shown)}

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

    def _lists(self, model, vectors=None, among=None) -> Iterator[tuple]:
        """Yields the users of this process, a slice of all, and their lists.

        With `among`, bool `(num_candidates,)`, also lists of these alone.
        """
        encode_users, candidates = vectors_of(model, vectors)
        if vectors is None and getattr(model, "needs_histories", False):
            encode_users = self._with_histories(encode_users)
        rank = make_ranker(
            encode_users,
            candidates,
            recommended(model, vectors, self.real),
            num_candidates=len(self.real),
            # Beyond the catalogue a list would hold nothing but padding.
            k=min(self.ks[-1], max(int(self.real.sum()), 1)),
            chunk_size=self.candidate_chunk_size,
            among=among,
        )
        # A chunk is divided over all devices of all processes.
        multiple = distribution.row_multiple()
        for chunk, num_rows, width in self.chunks(multiple):
            users = self.user_rows[chunk]
            padded, _ = pad_rows(users[None], [len(users)], num_rows)
            padded = padded[0]
            share = distribution.process_rows(num_rows)
            lists = rank(padded, self._excluded(padded[share], width))
            first = min(share.start, len(users))
            last = min(share.stop, len(users))
            part = slice(chunk.start + first, chunk.start + last)
            yield part, *(rows[: last - first] for rows in lists)

    def _hits(self, users, rows) -> np.ndarray:
        """Which of the lists `rows`, `(batch, list_length)`, were held out."""
        pairs = users.astype("int64")[:, None] * len(self.real) + rows
        indices = np.searchsorted(self.held_out, pairs)
        indices = np.minimum(indices, len(self.held_out) - 1)
        return (rows >= 0) & (self.held_out[indices] == pairs)

    def chunks(self, multiple: int) -> Iterator[tuple[slice, int, int]]:
        """Divides the users into chunks of few shapes.

        A shape costs a compilation, so the lists of seen candidates are padded
        to powers of two, and the users to one of a few numbers. Where a list
        is longer than `candidate_chunk_size` there are fewer users in the
        chunk, so that the lists take no more room than the scores.

        Args:
            multiple: int. The number of rows is a multiple of it.

        Yields:
            `(chunk, num_rows, width)`: a slice of `user_rows`, the number of
            rows to pad it to, and the length of the padded lists.
        """
        all_users = next_of_few_sizes(len(self.user_rows))
        most = min(self.user_chunk_size, all_users)
        room = self.user_chunk_size * self.candidate_chunk_size
        lengths = np.diff(self.seen.indptr)[self.user_rows]
        start = 0
        while start < len(self.user_rows):
            width = max(16, next_power_of_two(int(lengths[start])))
            num_rows = min(most, max(room // width, 1))
            num_rows = distribution.round_up(num_rows, multiple)
            yield slice(start, start + num_rows), num_rows, width
            start += num_rows

    def _with_histories(self, encode_users) -> Callable:
        """The same function of rows, for one that takes histories as well."""

        def encode(user_rows):
            history = self.seen.padded(user_rows, self.max_history)
            # Few shapes, as each costs a compilation.
            width = next_power_of_two(history.shape[1])
            missing = ((0, 0), (0, width - history.shape[1]))
            history = np.pad(history, missing, constant_values=PADDING)
            return encode_users({"user_id": user_rows, "history": history})

        return encode

    def _excluded(self, user_rows, width: int) -> np.ndarray:
        """Seen items of these users, int32 `(batch, width)`, padded with -1."""
        seen = self.seen.padded(user_rows)
        missing = ((0, 0), (0, width - seen.shape[1]))
        return np.pad(seen, missing, constant_values=PADDING)
