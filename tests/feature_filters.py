"""A table of features, and filters in plain Python."""

import numpy as np
from hypothesis import strategies as st

GENRES = ["Comedy", "War", "a b", "Drama"]


def candidate_table(num_candidates):
    rng = np.random.default_rng(1)
    ids = np.arange(num_candidates)
    return {
        "item_id": ids,
        "genres": [
            [name for name in GENRES if rng.random() < 0.4] for _ in ids
        ],
        "year": [
            None if one % 7 == 0 else float(rng.integers(1980, 2002))
            for one in ids
        ],
        "zip": [int(one) for one in rng.integers(7, 10, num_candidates)],
        "fresh": [bool(one) for one in rng.integers(0, 2, num_candidates)],
        "made": np.datetime64("2000-01-01")
        + rng.integers(0, 900, num_candidates).astype("m8[D]"),
        "blurb": [f"some words of {one}" for one in ids],
    }


def meets(table, one, filters) -> bool:
    """Whether a candidate fulfils filters, by looking at the table."""
    return all(
        _holds(table[name][one], condition)
        for name, condition in filters.items()
    )


def _holds(value, condition):
    if isinstance(value, np.datetime64):
        low, high = condition
        return (low is None or value >= np.datetime64(low)) and (
            high is None or value <= np.datetime64(high)
        )
    if value is None or (isinstance(value, float)):
        if isinstance(condition, dict):
            low, high = condition.get("min"), condition.get("max")
        elif isinstance(condition, (list, tuple)):
            low, high = condition
        else:
            low = high = condition
        return (
            value is not None
            and (low is None or value >= low)
            and (high is None or value <= high)
        )
    has = value if isinstance(value, list) else [value]
    if not isinstance(condition, dict):
        condition = {"any": condition}
    lists = {
        part: wanted if isinstance(wanted, list) else [wanted]
        for part, wanted in condition.items()
    }
    return (
        ("any" not in lists or any(one in has for one in lists["any"]))
        and all(one in has for one in lists.get("all", []))
        and not any(one in has for one in lists.get("none", []))
    )


def request_filters():
    """A strategy: dicts of conditions on the table's columns."""

    def labels(values):
        lists = st.lists(st.sampled_from(values), max_size=3)
        parts = {"any": lists, "all": lists, "none": lists}
        return st.one_of(
            st.sampled_from(values),
            lists,
            st.fixed_dictionaries({}, optional=parts).filter(bool),
        )

    year = st.integers(1979, 2003)
    bounds = st.lists(year, min_size=2, max_size=2).map(sorted)
    numbers = st.one_of(
        year,
        bounds,
        st.tuples(year, st.none()).map(list),
        st.fixed_dictionaries({"max": year}),
    )
    return st.fixed_dictionaries(
        {},
        optional={
            "genres": labels(GENRES),
            "zip": labels([7, 8, 9]),
            "fresh": labels([True, False]),
            "year": numbers,
        },
    )
