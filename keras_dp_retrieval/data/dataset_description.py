"""What is in a data set, in figures and in words."""

import dataclasses

import numpy as np

from keras_dp_retrieval.data import interaction_statistics as statistics
from keras_dp_retrieval.data.interaction_statistics import (
    LongTail,
    Spread,
    TimeSpan,
)
from keras_dp_retrieval.data.leakage import LeakageReport
from keras_dp_retrieval.data.parts import PARTS
from keras_dp_retrieval.data.ratings import Ratings

_WIDTH = 32  # Of the names of figures.


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
        sections = (
            _of_all(self),
            _of_spreads(self),
            _of_long_tail(self),
            _of_time(self),
            _of_parts(self),
            _of_test(self),
        )
        return "\n\n".join("\n".join(lines) for lines in sections if lines)


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


# The text


def _line(name: str, value, more: str = "") -> str:
    return f"{name:{_WIDTH}}{value:>12}  {more}".rstrip()


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _of_all(told: DatasetDescription) -> list[str]:
    made_up = " (SYNTHETIC: made-up data)" if told.is_synthetic else ""
    repeated = f"{told.num_repeated:,}"
    lines = [
        f"{told.source}{made_up}",
        *(f"  {note}" for note in told.notes.split("; ") if note),
        "",
        _line("interactions", f"{told.num_interactions:,}"),
        _line("  of a pair that had one", repeated),
        _line("users", f"{told.num_users:,}"),
        _line("candidates", f"{told.num_candidates:,}"),
        _line("density", f"{told.density:.3%}", "of all pairs"),
    ]
    if told.ratings is None:
        return [*lines, _line("ratings", "none")]
    low, mean, high = told.ratings
    scale = f"{low:g} to {high:g}"
    return [*lines, _line("ratings", scale, f"{mean:.2f} on average")]


def _of_spreads(told: DatasetDescription) -> list[str]:
    names = ["least", "10%", "25%", "median", "75%", "90%", "99%", "most"]
    columns = [*names, "mean"]
    lines = [" " * 16 + "".join(f"{name:>9}" for name in columns)]
    for name, one in (
        ("user", told.of_users),
        ("candidate", told.of_candidates),
    ):
        shown = [*(f"{value:,}" for value in one.quantiles), f"{one.mean:,.1f}"]
        cells = "".join(f"{value:>9}" for value in shown)
        lines.append(f"{'a ' + name + ' has':16}{cells}")
    return lines


def _of_long_tail(told: DatasetDescription) -> list[str]:
    tail, number = told.long_tail, told.num_candidates
    half, once = f"{tail.num_for_half:,}", f"{tail.num_once:,}"
    return [
        _line(
            "top 1% of the candidates have",
            f"{tail.top_1_percent:.1%}",
            "of the interactions",
        ),
        _line("top 10% have", f"{tail.top_10_percent:.1%}"),
        _line(
            "candidates that have half", half, _share(tail.num_for_half, number)
        ),
        _line("candidates with just one", once, _share(tail.num_once, number)),
        _line(
            "Gini", f"{tail.gini:.2f}", "0: all have as many; 1: one has all"
        ),
    ]


def _of_time(told: DatasetDescription) -> list[str]:
    time = told.time
    if time is None:
        return [_line("timestamps", "none")]
    read_as = "" if time.unit is None else f" (read as {time.unit})"
    lines = [f"timestamps from {time.first} to {time.last}{read_as}"]
    if time.days is not None:
        lines.append(_line("days", f"{time.days:,.1f}"))
    of_all = f"{_share(time.num_tied, told.num_interactions)} of all"
    tied = f"{time.num_tied:,}"
    return [*lines, _line("share user and time with another", tied, of_all)]


def _of_parts(told: DatasetDescription) -> list[str]:
    lines = [
        f"{f'split {told.split!r}, seed {told.seed}':{_WIDTH}}"
        + "".join(f"{part:>12}" for part in told.parts)
    ]
    for field in dataclasses.fields(PartSize):
        name = "  " + field.name.removeprefix("num_")
        sizes = [getattr(one, field.name) for one in told.parts.values()]
        lines.append(
            f"{name:{_WIDTH}}" + "".join(f"{size:>12,}" for size in sizes)
        )
    return lines


def _of_test(told: DatasetDescription) -> list[str]:
    cold, leakage = told.cold, told.leakage
    if cold is None:
        return []
    size = leakage.num_test

    def of_test(number):
        return f"{_share(number, size)} of the test interactions"

    before = leakage.num_before_train_end
    return [
        _line(
            "users only in test",
            f"{cold.num_users:,}",
            of_test(cold.num_user_interactions),
        ),
        _line(
            "candidates only in test",
            f"{cold.num_candidates:,}",
            of_test(cold.num_candidate_interactions),
        ),
        _line(
            "test interactions also in train",
            f"{leakage.num_repeated:,}",
            of_test(leakage.num_repeated),
        ),
        _line(
            "  older than the newest in train",
            "unknown" if before is None else f"{before:,}",
            "no timestamps" if before is None else of_test(before),
        ),
        *leakage.warnings,
    ]
