"""What `describe()` says of a data set, beside slow counts of the same."""

import collections
import itertools
import json

import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval.data import interaction_statistics as statistics


def data_of(seed=0, num_rows=300, **options):
    """Random interactions, some of them repeated, some at one time."""
    rng = np.random.default_rng(seed)
    columns = rng.integers(0, 20, num_rows), rng.integers(0, 15, num_rows) ** 2
    times = rng.integers(1_000_000_000, 1_000_000_040, num_rows)
    return kdr.RetrievalDataset.from_interactions(
        *columns, rng.integers(1, 6, num_rows), times, **options
    )


def rows_of(data):
    """Each interaction of all parts, as `(user, candidate, time)`."""
    parts = ("train", "test")
    if data.split != "tutorial":
        parts = ("train", "validation", "test")
    return [
        row
        for part in parts
        for row in zip(
            data.ratings(part).user_rows.tolist(),
            data.ratings(part).candidate_rows.tolist(),
            data.ratings(part).timestamps.tolist(),
            strict=True,
        )
    ]


@pytest.mark.filterwarnings("ignore:.*test interactions")
@pytest.mark.parametrize("split", ["random", "by_time", "leave_last_out"])
def test_figures_are_those_of_counting_by_hand(split):
    data = data_of(split=split)
    told, rows = data.describe(), rows_of(data)
    users, candidates, times = map(list, zip(*rows, strict=True))
    assert told.num_interactions == len(rows) == 300
    assert told.num_users == len(set(users)) == data.num_users - 1
    assert told.num_candidates == len(set(candidates))
    pairs = set(zip(users, candidates, strict=True))
    assert told.num_repeated == 300 - len(pairs)
    assert told.density == len(pairs) / (len(set(users)) * len(set(candidates)))
    of_users = sorted(collections.Counter(users).values())
    assert told.of_users.mean == pytest.approx(300 / len(of_users))
    assert told.of_users.quantiles[0] == of_users[0]
    assert told.of_users.quantiles[3] == of_users[(len(of_users) - 1) // 2]
    assert told.of_users.quantiles[-1] == of_users[-1]
    edges, counts = told.of_users.histogram
    assert list(counts) == [
        sum(low <= one < high for one in of_users)
        for low, high in itertools.pairwise(edges)
    ]
    assert sum(counts) == len(of_users)
    same = collections.Counter(zip(users, times, strict=True))
    assert told.time.num_tied == sum(n for n in same.values() if n > 1)
    assert told.time.first == "2001-09-09 01:46:40"
    assert told.time.days == pytest.approx((max(times) - min(times)) / 86400)
    for part, size in told.parts.items():
        columns = data.ratings(part)
        assert sum(told.time.counts[part]) == size.num_interactions
        assert size.num_interactions == len(columns)
        assert size.num_users == len(set(columns.user_rows.tolist()))


@pytest.mark.filterwarnings("ignore:.*test interactions")
def test_cold_shares_are_those_of_counting_by_hand():
    data = data_of(num_rows=40)
    cold = data.describe().cold
    train, test = data.ratings("train"), data.ratings("test")
    for kind in ("user", "candidate"):
        known = set(getattr(train, f"{kind}_rows").tolist())
        rows = getattr(test, f"{kind}_rows").tolist()
        new = [row for row in rows if row not in known]
        assert getattr(cold, f"num_{kind}s") == len(set(new))
        assert getattr(cold, f"num_{kind}_interactions") == len(new)
    assert cold.num_user_interactions and cold.num_candidate_interactions


def test_quantiles_are_counts_that_somebody_has():
    found = statistics.spread(np.array([9, 1, 4, 2]))
    assert found.quantiles == (1, 1, 1, 2, 4, 9, 9, 9)
    assert found.mean == 4


def gini_by_pairs(counts):
    """Half of the mean difference of two, over the mean."""
    differences = [abs(a - b) for a in counts for b in counts]
    return np.mean(differences) / (2 * np.mean(counts))


@pytest.mark.parametrize(
    "counts",
    [[1], [5, 5, 5], [1, 2, 3, 4], [1000, *[1] * 99], list(range(1, 251))],
)
def test_long_tail_is_that_of_a_plain_sort(counts):
    tail = statistics.long_tail(np.array(counts))
    in_order, total = sorted(counts, reverse=True), sum(counts)
    assert tail.gini == pytest.approx(gini_by_pairs(counts))
    for share, found in ((100, tail.top_1_percent), (10, tail.top_10_percent)):
        top = -(-len(counts) // share)
        assert found == pytest.approx(sum(in_order[:top]) / total)
    half = in_order[: tail.num_for_half]
    assert sum(half) >= total / 2 > sum(half[:-1])
    assert tail.num_once == counts.count(1)
    for candidates, interactions in zip(*tail.curve, strict=True):
        first = in_order[: round(candidates * len(counts))]
        assert interactions == pytest.approx(sum(first) / total)
    assert tail.curve[0][-1] == tail.curve[1][-1] == 1


@pytest.mark.parametrize(
    ("times", "unit", "first", "days"),
    [
        ([1_700_000_000, 1_700_086_400], "seconds", "2023-11-14 22:13:20", 1),
        ([1_700_000_000_000] * 2, "milliseconds", "2023-11-14 22:13:20", 0),
        ([1_700_000_000_000_000] * 2, "microseconds", "2023-11-14 22:13:20", 0),
        ([7, 9], None, 7, None),
        ([-5, 1_700_000_000], None, -5, None),
    ],
)
def test_numbers_are_times_where_their_size_says_so(times, unit, first, days):
    span = statistics.time_span(
        np.array([0, 1]), {"train": np.array(times)}, has_dates=False
    )
    assert (span.unit, span.first, span.days) == (unit, first, days)
    assert sum(span.counts["train"]) == 2 and span.num_tied == 0


def test_dates_are_what_they_are():
    data = kdr.RetrievalDataset.from_interactions(
        [1, 1, 2, 2],
        [1, 2, 1, 2],
        timestamps=[
            "1969-12-31",
            "1970-01-01T12:00",
            "2026-01-01",
            "2026-01-01",
        ],
        test_fraction=0,
    )
    time = data.describe().time
    assert time.first == "1969-12-31 00:00:00" and time.num_tied == 2
    assert time.days == pytest.approx(20455, abs=1)


def test_what_is_not_there_is_said():
    data = kdr.RetrievalDataset.from_interactions(
        ["a", "a", "b"], ["x", "y", "x"], test_fraction=0, validation_fraction=0
    )
    told = data.describe()
    assert told.time is None and told.ratings is None and told.cold is None
    assert "timestamps                              none" in str(told)
    assert "ratings                                 none" in str(told)
    assert "only in test" not in str(told)


@pytest.mark.filterwarnings("ignore:Validation and test are the same rows")
@pytest.mark.filterwarnings("ignore:.*older than the newest")
def test_rows_that_are_in_two_parts_count_once():
    data = kdr.MovieLensRetrievalDataset(
        "100k", source="synthetic", split="tutorial"
    )
    told = data.describe()
    assert told.num_interactions == 100_000 and told.num_repeated == 0
    assert sum(map(sum, told.time.counts.values())) == 100_000
    assert "(SYNTHETIC data)" in str(told)
    assert "Validation and test are the same rows." in str(told)


@pytest.mark.filterwarnings("ignore:.*test interactions")
def test_the_text_has_the_figures_and_json_has_them_all():
    told = data_of().describe()
    text, values = str(told), json.loads(json.dumps(told.to_dict()))
    for warning in told.leakage.warnings:
        assert warning in text
    for name in ("num_interactions", "num_users", "num_candidates"):
        assert f"{values[name]:,}" in text
    assert f"{values['long_tail']['top_10_percent']:.1%}" in text
    assert values["cold"]["num_users"] == told.cold.num_users
    assert values["leakage"]["num_repeated"] == told.leakage.num_repeated
    assert max(map(len, text.splitlines()[:-2])) <= 100


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore:Validation and test are the same rows")
@pytest.mark.filterwarnings("ignore:.*older than the newest")
def test_the_tutorials_split_of_movielens_is_what_it_is(data_dir):
    data = kdr.MovieLensRetrievalDataset(
        "100k", data_dir=data_dir / "tfds", split="tutorial"
    )
    told = data.describe()
    assert (told.num_users, told.num_candidates) == (943, 1682)
    assert told.density == pytest.approx(100_000 / 943 / 1682)
    assert told.ratings == (1, pytest.approx(3.52986), 5)
    assert told.time.first.startswith("1997-09-20")
    assert told.time.last.startswith("1998-04-22")
    assert told.num_repeated == told.leakage.num_repeated == 0
    assert told.leakage.num_before_train_end > 19_900
