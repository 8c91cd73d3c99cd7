"""Figures on interactions: how many, of whom, of what, and when."""

import dataclasses

import numpy as np

from keras_dp_retrieval.data.ratings import pair_codes

# Quantiles of a spread; 0 and 1 are the least and the most.
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
# How many points a curve has, or bars.
_POINTS = 200
_BARS = 20
_BINS = 60
# By their size, whole numbers that are times since 1970: the units a second
# has, where they lie between 1973 and 5138. Smaller ones can be anything.
_LEAST_SECONDS, _MOST_SECONDS = 1e8, 1e11
_UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6}
_NANOSECONDS = "nanoseconds"


@dataclasses.dataclass(frozen=True)
class Spread:
    """How many interactions each user, or each candidate, has.

    Args:
        quantiles: Tuple of ints: at `QUANTILES`.
        mean: float.
        histogram: `(edges, counts)`: how many of them have at least
            `edges[i]` interactions and fewer than `edges[i + 1]`.
    """

    quantiles: tuple[int, ...]
    mean: float
    histogram: tuple[tuple[int, ...], tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class LongTail:
    """How the interactions are divided among the candidates.

    Args:
        top_1_percent: float. The share of all interactions that the most
            popular hundredth of the candidates has, rounded up to whole
            candidates.
        top_10_percent: float. Likewise, the tenth.
        num_for_half: int. The fewest candidates that have half of all.
        num_once: int. Candidates with a single interaction.
        gini: float. The Gini coefficient: 0 if all candidates have as many,
            near 1 if one has them all.
        curve: `(candidates, interactions)`: the share of all interactions
            that this share of the candidates has, the most popular first.
    """

    top_1_percent: float
    top_10_percent: float
    num_for_half: int
    num_once: int
    gini: float
    curve: tuple[tuple[float, ...], tuple[float, ...]]


@dataclasses.dataclass(frozen=True)
class TimeSpan:
    """When the interactions were.

    Args:
        unit: str or None. What the timestamps count since 1970: dates are
            nanoseconds, of whole numbers it follows from their size; None if
            that tells nothing.
        first: str or int. As an ISO date if there is a unit.
        last: str or int.
        days: float or None.
        num_tied: int. Interactions that share user and time with another:
            nobody knows which of them came first.
        edges: Tuple of the bounds of spans of equal length, as `first`.
        counts: dict from `"train"`, `"validation"` and `"test"` to the
            interactions of each span.
    """

    unit: str | None
    first: str | int
    last: str | int
    days: float | None
    num_tied: int
    edges: tuple[str | int, ...]
    counts: dict[str, tuple[int, ...]]


def spread(counts: np.ndarray) -> Spread:
    """Returns the `Spread` of counts, `(n,)` int of 1 or more."""
    # An observation each, not something between two of them.
    at = np.quantile(counts, QUANTILES, method="inverted_cdf")
    bounds = np.geomspace(counts.min(), counts.max() + 1, _BARS + 1)
    edges = np.unique(bounds.round().astype(np.int64))
    in_bins, _ = np.histogram(counts, edges)
    return Spread(
        tuple(map(int, at)),
        float(counts.mean()),
        (tuple(edges.tolist()), tuple(in_bins.tolist())),
    )


def long_tail(counts: np.ndarray) -> LongTail:
    """Returns the `LongTail` of counts, `(num_candidates,)` of 1 or more."""
    in_order = np.sort(counts)[::-1]
    shares = np.cumsum(in_order) / in_order.sum()
    number = len(shares)

    def share_of_top(share):
        return float(shares[-(-number // share) - 1])

    # Where the curve bends is its beginning: half of the points are there.
    points = np.unique(
        np.concatenate(
            [
                np.linspace(1, number, _POINTS // 2),
                np.geomspace(1, number, _POINTS // 2),
            ]
        ).astype(np.int64)
    )
    ranks = np.arange(number, 0, -1)  # The most popular has the last.
    weighted = float((ranks * in_order.astype(np.float64)).sum())
    gini = 2 * weighted / (number * float(in_order.sum())) - (number + 1) / (
        number
    )
    return LongTail(
        top_1_percent=share_of_top(100),
        top_10_percent=share_of_top(10),
        num_for_half=int(np.searchsorted(shares, 0.5)) + 1,
        num_once=int(np.count_nonzero(counts == 1)),
        gini=max(gini, 0.0),
        curve=(
            (0.0, *(points / number).tolist()),
            (0.0, *shares[points - 1].tolist()),
        ),
    )


def num_distinct_pairs(user_rows, candidate_rows) -> int:
    """Returns how many pairs of user and candidate there are."""
    pairs = np.sort(pair_codes(user_rows, candidate_rows))
    return int(np.count_nonzero(np.diff(pairs))) + (len(pairs) > 0)


def time_span(user_rows, timestamps_of: dict, has_dates: bool) -> TimeSpan:
    """Returns the `TimeSpan` of interactions.

    Args:
        user_rows: `(n,)`, of all parts in the order of `timestamps_of`.
        timestamps_of: dict from the name of a part to int64 `(n,)`.
        has_dates: bool. Whether they came as dates.
    """
    timestamps = np.concatenate(list(timestamps_of.values()))
    first, last = int(timestamps.min()), int(timestamps.max())
    unit = _NANOSECONDS if has_dates else _unit(first, last)
    edges = np.linspace(first, last, _BINS + 1)
    per_second = {**_UNITS, _NANOSECONDS: 10**9}.get(unit or "")
    return TimeSpan(
        unit=unit,
        first=as_date(first, per_second),
        last=as_date(last, per_second),
        days=None
        if per_second is None
        else (last - first) / per_second / 86400,
        num_tied=_num_tied(user_rows, timestamps),
        edges=tuple(as_date(int(edge), per_second) for edge in edges),
        counts={
            part: tuple(_in_spans(times, first, last))
            for part, times in timestamps_of.items()
        },
    )


def as_date(timestamp: int, per_second: int | None) -> str | int:
    """Returns a time as ISO text; as it is where its unit is not known."""
    if per_second is None:
        return timestamp
    return str(np.datetime64(timestamp // per_second, "s")).replace("T", " ")


def _unit(first: int, last: int) -> str | None:
    for unit, per_second in _UNITS.items():
        low, high = first / per_second, last / per_second
        if _LEAST_SECONDS <= low and high < _MOST_SECONDS:
            return unit
    return None


def _in_spans(times: np.ndarray, first: int, last: int) -> list[int]:
    counts, _ = np.histogram(
        # As distances: int64 times have more digits than a float.
        (times - first).astype(np.float64),
        _BINS,
        (0.0, max(float(last - first), 1.0)),
    )
    return counts.tolist()


def _num_tied(user_rows, timestamps) -> int:
    order = np.lexsort((timestamps, user_rows))
    users, times = np.asarray(user_rows)[order], timestamps[order]
    same = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
    tied = np.append(same, False) | np.append(False, same)
    return int(np.count_nonzero(tied))
