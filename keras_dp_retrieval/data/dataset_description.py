"""What is in a data set, in figures and in words."""

import dataclasses

import numpy as np

from keras_dp_retrieval.data import description_text
from keras_dp_retrieval.data import interaction_statistics as statistics
from keras_dp_retrieval.data.interaction_statistics import (
    LongTail,
    Spread,
    TimeSpan,
)
from keras_dp_retrieval.data.leakage import LeakageReport
from keras_dp_retrieval.data.parts import PARTS
from keras_dp_retrieval.data.ratings import Ratings


@dataclasses.dataclass(frozen=True)
class PartSize:
    """How much there is in a part.

    Args:
        num_interactions: int.
        num_users: int. Users with an interaction in it.
        num_candidates: int. Likewise, candidates.
    """

    num_interactions: int
    num_users: int
    num_candidates: int


@dataclasses.dataclass(frozen=True)
class ColdShares:
    """What the test part has that the train part does not.

    Args:
        num_users: int. Users of the test part alone.
        num_user_interactions: int. Their interactions in the test part.
        num_candidates: int. Candidates of the test part alone.
        num_candidate_interactions: int. Their interactions in the test part.
    """

    num_users: int
    num_user_interactions: int
    num_candidates: int
    num_candidate_interactions: int


@dataclasses.dataclass(frozen=True)
class DatasetDescription:
    """What `describe()` of a data set returns; `str` of it is the text.

    All interactions count, whatever part they are in.

    Args:
        source: str. What the data are.
        is_synthetic: bool.
        notes: str. What was done to read and split them.
        num_interactions: int.
        num_users: int. Users with an interaction.
        num_candidates: int. Candidates with an interaction.
        num_repeated: int. Interactions whose user and candidate had one
            before, in the order they came in.
        density: float. The share of all pairs of a user and a candidate that
            have an interaction.
        ratings: Optional `(lowest, mean, highest)`.
        of_users: `Spread` of the interactions a user.
        of_candidates: `Spread` of the interactions a candidate.
        long_tail: `LongTail`.
        time: Optional `TimeSpan`; None without timestamps.
        split: str.
        seed: int. Of the split.
        parts: dict from `"train"`, `"validation"` and `"test"` to `PartSize`.
            With the split `"tutorial"` the latter two are the same rows.
        cold: Optional `ColdShares`; None without a test part.
        leakage: `LeakageReport`. What the test part shares with train.
    """

    source: str
    is_synthetic: bool
    notes: str
    num_interactions: int
    num_users: int
    num_candidates: int
    num_repeated: int
    density: float
    ratings: tuple[float, float, float] | None
    of_users: Spread
    of_candidates: Spread
    long_tail: LongTail
    time: TimeSpan | None
    split: str
    seed: int
    parts: dict[str, PartSize]
    cold: ColdShares | None
    leakage: LeakageReport

    def to_dict(self) -> dict:
        """Returns all of it as plain values, for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return description_text.in_words(self)


def describe(data) -> DatasetDescription:
    """Returns the description of a data set in memory, see its `describe`."""
    parts = {part: data.ratings(part) for part in PARTS}
    has_dates = data._loaded.interactions.has_dates
    distinct = dict(parts)
    if data.split == "tutorial":  # Its validation part is the test part.
        del distinct["validation"]
    users = np.concatenate([one.user_rows for one in distinct.values()])
    candidates = np.concatenate(
        [one.candidate_rows for one in distinct.values()]
    )
    counts_of_users, counts_of_candidates = _counts(users), _counts(candidates)
    num_pairs = statistics.num_distinct_pairs(users, candidates)
    num_users, num_candidates = len(counts_of_users), len(counts_of_candidates)
    return DatasetDescription(
        source=data._shown(),
        is_synthetic=data.is_synthetic,
        notes=data._source_note,
        num_interactions=len(users),
        num_users=num_users,
        num_candidates=num_candidates,
        num_repeated=len(users) - num_pairs,
        density=num_pairs / (num_users * num_candidates),
        ratings=_rating_range(distinct.values()),
        of_users=statistics.spread(counts_of_users),
        of_candidates=statistics.spread(counts_of_candidates),
        long_tail=statistics.long_tail(counts_of_candidates),
        time=_time_span(distinct, users, has_dates),
        split=data.split,
        seed=data.seed,
        parts={part: _size(one) for part, one in parts.items()},
        cold=_cold_shares(parts["train"], parts["test"]),
        leakage=data.leakage,
    )


def _counts(rows: np.ndarray) -> np.ndarray:
    """How often each row occurs that does."""
    counts = np.bincount(rows)
    return counts[counts > 0]


def _size(part: Ratings) -> PartSize:
    return PartSize(
        len(part),
        len(_counts(part.user_rows)),
        len(_counts(part.candidate_rows)),
    )


def _rating_range(parts) -> tuple[float, float, float] | None:
    columns = [one.ratings for one in parts if one.ratings is not None]
    if not columns:
        return None
    ratings = np.concatenate(columns)
    mean = ratings.mean(dtype=np.float64)
    return float(ratings.min()), float(mean), float(ratings.max())


def _time_span(parts: dict, users, has_dates: bool) -> TimeSpan | None:
    if any(one.timestamps is None for one in parts.values()):
        return None
    times = {part: np.asarray(one.timestamps) for part, one in parts.items()}
    return statistics.time_span(users, times, has_dates)


def _cold_shares(train: Ratings, test: Ratings) -> ColdShares | None:
    if not len(test):
        return None

    def new(known, rows):
        is_known = np.zeros(max(known.max(initial=0), rows.max()) + 1, bool)
        is_known[known] = True
        of_new = rows[~is_known[rows]]
        return len(_counts(of_new)) if len(of_new) else 0, len(of_new)

    return ColdShares(
        *new(train.user_rows, test.user_rows),
        *new(train.candidate_rows, test.candidate_rows),
    )
