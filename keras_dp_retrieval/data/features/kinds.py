"""Which kind a column of features is of."""

from collections.abc import Mapping

import numpy as np
import pyarrow
import pyarrow.compute as pc
from pyarrow import types

# Between the labels of one string.
LABEL_SEPARATOR = "|"

# Strings are text if they rarely repeat, and have several words on average.
_LEAST_DISTINCT = 0.5  # of the strings
_LEAST_WORDS = 2.0  # a string
_COUNTED_TEXTS = 10_000  # in which words are counted, from all over


def kinds_of(columns: Mapping, stated: Mapping[str, str]) -> dict[str, str]:
    """Returns the kind of each column: what was stated, or is inferred.

    Args:
        columns: dict from names to `pyarrow.ChunkedArray`.
        stated: dict from some of the names to a kind.

    Raises:
        ValueError: If a kind is stated for a column that is not there, or a
            column can be of no kind.
    """
    others = sorted(set(stated) - set(columns))
    if others:
        raise ValueError(
            "`kinds` must be those of columns that are there. Received: "
            f"{others}. There are: {sorted(columns)}."
        )
    return {
        name: stated[name] if name in stated else _inferred(name, column)
        for name, column in columns.items()
    }


def _inferred(name: str, column) -> str:
    kind = column.type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if is_list(kind):
        return "multi_label"
    if is_moment(kind):
        return "date"
    if types.is_boolean(kind) or types.is_null(kind):
        return "categorical"
    if types.is_integer(kind) or types.is_floating(kind):
        return "numeric"
    if types.is_decimal(kind):
        return "numeric"
    if is_text(kind):
        return _of_texts(column)
    raise ValueError(
        f"A column of features must hold numbers, strings, dates, booleans or "
        f"lists of labels. Received: {name!r} of the type {column.type}. "
        "Leave it out with `kdr.Features(table, columns=[...])`."
    )


def _of_texts(column) -> str:
    if types.is_dictionary(column.type):
        return "categorical"
    texts = column.drop_null()
    if not len(texts):
        return "categorical"
    if pc.any(pc.match_substring(texts, LABEL_SEPARATOR)).as_py():
        return "multi_label"
    if pc.count_distinct(texts).as_py() / len(texts) <= _LEAST_DISTINCT:
        return "categorical"
    # Counting the words of all would take longer than reading them.
    step = -(-len(texts) // _COUNTED_TEXTS)
    some = texts.take(np.arange(0, len(texts), step))
    words = pc.mean(pc.count_substring_regex(some, r"\S+")).as_py()
    return "text" if words >= _LEAST_WORDS else "categorical"


def is_list(kind: pyarrow.DataType) -> bool:
    """Whether a column of this type has a list in each row."""
    return (
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
    )


def is_moment(kind: pyarrow.DataType) -> bool:
    """Whether a column of this type holds dates or times."""
    return types.is_temporal(kind) and not types.is_duration(kind)


def is_text(kind: pyarrow.DataType) -> bool:
    """Whether a column of this type holds strings."""
    return (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
    )
