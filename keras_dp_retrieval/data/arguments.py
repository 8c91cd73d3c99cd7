"""Checks what a data set is made from: parts, titles, scales, columns."""

import dataclasses

import numpy as np

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.columns import id_column
from keras_dp_retrieval.data.features import Features
from keras_dp_retrieval.data.features.feature_table import FeatureTable
from keras_dp_retrieval.data.padding import refuse_padding_ids
from keras_dp_retrieval.data.raw_data import COLUMNS, RawData, RawRatings

RATING_RANGE = (1.0, 5.0)  # The default.


def raw_data(
    interactions: RawRatings,
    *,
    validation,
    test,
    titles,
    rating_range,
    user_features=None,
    candidate_features=None,
) -> RawData:
    """Checks what belongs to the interactions, and returns all of it.

    Args:
        interactions: `RawRatings`.
        validation: Likewise the next two, as `RetrievalDataset` has them.
        rating_range: Checked `(lowest, highest)`.
        user_features: What `Features.of` takes, or None.
        candidate_features: Likewise.

    Raises:
        ValueError: If something does not fit.
    """
    of_users = feature_table("user", user_features)
    of_candidates = feature_table("candidate", candidate_features)
    whole = RawData(
        interactions,
        held_out_part("validation", validation, interactions),
        held_out_part("test", test, None),
        titles_of(titles, interactions.candidates.ids),
        *(
            table and with_ids_like(side, table, ids)
            for side, table, ids in (
                ("user", of_users, interactions.users.ids),
                ("candidate", of_candidates, interactions.candidates.ids),
            )
        ),
    )
    for part in (whole.interactions, whole.validation, whole.test):
        if part is not None:
            part.check_range(*rating_range)
            part.check_same_clock(interactions)
    return whole


def held_out_part(name: str, columns, like: RawRatings | None):
    """Checks `test` or `validation`, a tuple of columns; None gives None.

    Args:
        name: str. The name of the argument.
        columns: `(user_ids, candidate_ids)`, ratings, timestamps and weights
            after them if there are any.
        like: Optional `RawRatings`, which must have the same columns.
    """
    if columns is None:
        return None
    is_columns = isinstance(columns, (tuple, list)) and all(
        column is None or hasattr(column, "__len__") for column in columns
    )
    if not is_columns or not 2 <= len(columns) <= len(COLUMNS):
        raise ValueError(
            f"`{name}` must be `(user_ids, candidate_ids)`, with ratings, "
            f"timestamps and weights after them if you like. Received: "
            f"{columns!r:.80}."
        )
    named = dict(zip(COLUMNS, columns, strict=False))
    raw = RawRatings(**named, name=f"{name} part")
    for column in COLUMNS[2:] if like is not None else ():
        if (getattr(raw, column) is None) != (getattr(like, column) is None):
            # It is to be put together with the train part.
            raise ValueError(
                f"`{name}` must have {column} if and only if the interactions "
                "do. Received them for one of the two."
            )
    return raw


def rating_range(value) -> tuple[float, float]:
    """Checks `rating_range`: two finite numbers, the lower one first."""
    try:
        ends = np.array([*value])
    except (TypeError, ValueError):
        ends = np.array([])
    if ends.shape == (2,) and ends.dtype.kind in "iuf":
        low, high = map(float, ends)
        # Ratings are float32, and so are their distances from the lowest.
        with np.errstate(over="ignore"):
            small = np.array([low, high, high - low]).astype(np.float32)
        if np.isfinite(small).all() and small[2] > 0:
            return low, high
    raise ValueError(
        "`rating_range` must be two finite numbers, the lowest rating and the "
        f"highest. Received: rating_range={value!r:.80}. The default is "
        f"{RATING_RANGE}."
    )


def feature_table(side: str, features) -> FeatureTable | None:
    """Reads and checks a table of features; None gives None.

    Args:
        side: `"user"` or `"candidate"`.
        features: What `Features.of` takes.
    """
    if features is None:
        return None
    table = Features.of(features).read(side)
    if side == "candidate":
        refuse_padding_ids("candidate_features", table.ids)
    return table


def with_ids_like(
    side: str, table: FeatureTable, ids: np.ndarray
) -> FeatureTable:
    """Returns a table whose ids are of the type of the interactions'.

    Whole numbers that stand in a CSV file may be meant as strings, such as
    those of a catalogue whose other ids have letters: a file does not say.

    Args:
        side: `"user"` or `"candidate"`.
        table: `FeatureTable`.
        ids: `(n,)`. Raw ids of the interactions.

    Raises:
        ValueError: If the ids are of another type, and were not written.
    """
    if not len(ids) or table.ids.dtype.kind == ids.dtype.kind:
        return table
    if table.are_ids_written and table.ids.dtype.kind == "i":
        # As they were written: one with zeros in front would be no number.
        return dataclasses.replace(table, ids=table.ids.astype(str))
    wanted = {"i": "whole numbers", "U": "strings"}[ids.dtype.kind]
    raise ValueError(
        f"`{side}_features` must have ids of the type of the interactions. "
        f"Received: ids such as {_checks.shown(table.ids[0])} in "
        f"{table.id_column!r}, and {side}s such as {_checks.shown(ids[0])}. "
        f"Make {wanted} of the column {table.id_column!r}, or the same of both "
        "tables."
    )


def titles_of(titles, candidate_ids: np.ndarray) -> dict:
    """Checks `candidate_titles`, a dict, pairs or a Series of pandas.

    Args:
        titles: What was given.
        candidate_ids: `(n,)`. Raw ids of candidates, each once or more.
    """
    if titles is None:
        return {}
    if hasattr(titles, "to_dict") and hasattr(titles, "index"):
        if not titles.index.is_unique:
            raise ValueError(
                "`candidate_titles` must have each id once in its index. "
                f"Received: {titles.index[titles.index.duplicated()][0]!r} "
                "more than once."
            )
        titles = titles.to_dict()
    try:
        titles = dict(titles)
    except (TypeError, ValueError):
        raise ValueError(
            "`candidate_titles` must be a dict from candidate ids to titles, "
            "or a Series of titles with the ids as its index. Received: "
            f"{titles!r:.80}."
        ) from None
    for key, title in titles.items():
        if not isinstance(title, str):
            raise ValueError(
                "`candidate_titles` must be strings. Received: "
                f"{title!r:.80} for {key!r}. Leave it out, or use "
                "`str(title)`."
            )
    ids = id_column("candidate_titles", list(titles))
    if len(ids) and ids.dtype.kind != candidate_ids.dtype.kind:
        raise ValueError(
            "`candidate_titles` must be for ids of the type of the candidates. "
            f"Received: titles for ids such as {ids.tolist()[0]!r}, and "
            f"candidates such as {candidate_ids.tolist()[0]!r}."
        )
    return dict(zip(ids.tolist(), titles.values(), strict=True))
