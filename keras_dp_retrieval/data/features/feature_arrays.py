"""Columns of features in Arrow's kernels: texts, labels, words, numbers."""

import re

import numpy as np
import pyarrow
import pyarrow.compute as pc
from pyarrow import types

from keras_dp_retrieval.data.features.ascii_words import ascii_words
from keras_dp_retrieval.data.features.kinds import (
    LABEL_SEPARATOR,
    is_list,
    is_moment,
    is_text,
)

_TEXT = pyarrow.large_string()
_NO_WORD = r"[^\p{L}\p{N}]+"
_NANOSECONDS_A_DAY = 24 * 60 * 60 * 10**9


def distinct(name: str, column) -> list[str]:
    """Returns the values of a column of categories as text, sorted."""
    values = pc.unique(texts(name, column).drop_null())
    return sorted(values.to_pylist())


def indices_of(name: str, column, values: list[str]) -> np.ndarray:
    """Returns the index of each category: from 1 in `values`, else 0."""
    found = pc.index_in(texts(name, column), pyarrow.array(values, _TEXT))
    return (_numpy(pc.fill_null(found, -1)) + 1).astype(np.int32)


def texts(name: str, column):
    """Returns a column as text; empty strings are missing.

    Numbers that are whole are written so (`5`, not `5.0`): pandas makes floats
    of whole numbers where one is missing.
    """
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_floating(column.type):
        numbers = _numpy(column.cast(pyarrow.float64()), np.nan)
        is_whole = np.isnan(numbers) | (
            (numbers == np.round(numbers)) & (np.abs(numbers) < 2.0**53)
        )
        column = pc.if_else(
            pyarrow.array(np.isnan(numbers)),
            pyarrow.scalar(None, column.type),
            column,
        )
        if is_whole.all():
            column = column.cast(pyarrow.int64())
    try:
        column = column.cast(_TEXT)
    except pyarrow.ArrowException as error:
        raise _wrong(name, "categories", column, error) from error
    empty = pc.equal(column, pyarrow.scalar("", _TEXT))
    return pc.if_else(
        pc.fill_null(empty, False), pyarrow.scalar(None, _TEXT), column
    )


def labels(name: str, column):
    """Returns the labels of each row, a list array of texts."""
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if is_list(column.type):
        lists = _one_chunk(column)
        inner = texts(name, pyarrow.chunked_array([lists.flatten()]))
        return _lists(lists, inner)
    if not is_text(column.type) and not types.is_null(column.type):
        raise _wrong(name, "lists of labels, or texts such as 'a|b|c'", column)
    split = pc.split_pattern(texts(name, column), LABEL_SEPARATOR)
    lists = _one_chunk(split)
    inner = pc.utf8_trim_whitespace(lists.flatten())
    return _lists(lists, texts(name, pyarrow.chunked_array([inner])))


def words(name: str, column):
    """Returns the words of each row, a list array of texts."""
    if not is_text(column.type) and not types.is_null(column.type):
        if not types.is_dictionary(column.type):
            raise _wrong(name, "texts", column)
    given = _one_chunk(texts(name, column))
    found = ascii_words(given)
    if found is not None:
        rows, plain = found
        return TextLists(rows, pyarrow.chunked_array([plain]), len(given))
    lower = pc.utf8_lower(given)
    plain = pc.replace_substring_regex(lower, _NO_WORD, " ")
    lists = _one_chunk(pc.split_pattern(pc.utf8_trim_whitespace(plain), " "))
    inner = texts(name, pyarrow.chunked_array([lists.flatten()]))
    return _lists(lists, inner)


class TextLists:
    """Texts in rows: some in each, or none.

    Args:
        rows: int64 `(num_texts,)`, rising: the row of each text.
        texts: `pyarrow.ChunkedArray` `(num_texts,)`, none missing.
        num_rows: int.
    """

    def __init__(self, rows, texts, num_rows):
        self.rows, self.texts, self.num_rows = rows, texts, num_rows


def _lists(lists, inner) -> TextLists:
    # Not `list_parent_indices`: behind a missing list there may be values,
    # which `flatten` leaves out.
    lengths = _numpy(pc.fill_null(pc.list_value_length(lists), 0))
    rows = np.repeat(np.arange(len(lists), dtype=np.int64), lengths)
    kept = _numpy(inner.is_valid())
    return TextLists(rows[kept], inner.drop_null(), len(lists))


def frequent(lists: TextLists, least: int, most: int | None) -> list[str]:
    """Returns the texts that are in so many rows, sorted.

    Args:
        lists: `TextLists`.
        least: int. Rows that a text must be in.
        most: Optional int. How many to return: the most frequent, and of
            equally frequent ones the first in order.
    """
    if not len(lists.texts):
        return []
    encoded = _one_chunk(lists.texts.dictionary_encode())
    values = np.array(encoded.dictionary.to_pylist(), object)
    _, codes = _each_once(lists.rows, _numpy(encoded.indices))
    counts = np.bincount(codes, minlength=len(values))
    order = np.argsort(values)
    order = order[np.argsort(-counts[order], kind="stable")]
    order = order[counts[order] >= least][:most]
    return sorted(values[order].tolist())


def padded_indices(lists: TextLists, values: list[str]) -> np.ndarray:
    """Returns the indices of each row's texts, from 1, padded with 0.

    Texts that are not among `values` are left out, and those that a row has
    several times count once.

    Returns:
        int32 `(num_rows, width)`, `width` the most that a row has, at least 1.
    """
    found = pc.index_in(lists.texts, pyarrow.array(values, _TEXT))
    known = _numpy(found.is_valid())
    rows, indices = _each_once(
        lists.rows[known], _numpy(found.drop_null()).astype(np.int64) + 1
    )
    counts = np.bincount(rows, minlength=lists.num_rows)
    width = max(int(counts.max(initial=0)), 1)
    padded = np.zeros((lists.num_rows, width), np.int32)
    starts = np.cumsum(counts) - counts
    padded[rows, np.arange(len(rows)) - starts[rows]] = indices
    return padded


def _each_once(rows, codes) -> tuple[np.ndarray, np.ndarray]:
    """Distinct pairs of row and code, by row, else as they came."""
    if not len(rows):
        return rows, codes
    num_codes = int(codes.max()) + 1
    pairs = rows * num_codes + codes
    in_order = np.sort(pairs)
    again = in_order[1:][in_order[1:] == in_order[:-1]]
    if not len(again):
        return rows, codes
    # Few rows have something twice; where it came first is slow to find.
    is_concerned = np.zeros(int(rows[-1]) + 1, bool)
    is_concerned[again // num_codes] = True
    concerned = np.flatnonzero(is_concerned[rows])
    _, first = np.unique(pairs[concerned], return_index=True)
    kept = np.ones(len(pairs), bool)
    kept[concerned] = False
    kept[concerned[first]] = True
    return rows[kept], codes[kept]


def numbers(name: str, column) -> np.ndarray:
    """Returns float64 `(n,)`, NaN where a value is missing."""
    try:
        if is_text(column.type):
            column = texts(name, column)  # An empty string is missing.
        found = _numpy(column.cast(pyarrow.float64(), safe=False), np.nan)
    except pyarrow.ArrowException as error:
        raise _wrong(name, "numbers", column, error) from error
    if np.isinf(found).any():
        row = int(np.isinf(found).argmax())
        raise ValueError(
            f"The feature {name!r} must hold finite numbers. Received: "
            f"{found[row]} in row {row}."
        )
    return found


def days(name: str, column) -> np.ndarray:
    """Returns float64 `(n,)`: days since 1970, NaN where missing."""
    try:
        if is_text(column.type):
            column = texts(name, column)
        moments = column.cast(pyarrow.timestamp("ns"))
        nanoseconds = _numpy(moments.cast(pyarrow.int64()), np.nan)
    except pyarrow.ArrowException as error:
        raise _wrong(
            name, "dates, or texts such as '2026-11-29'", column, error
        ) from error
    return nanoseconds / _NANOSECONDS_A_DAY


def as_list(column) -> list:
    """Returns a column as a list that JSON can hold, dates as ISO texts."""
    if types.is_timestamp(column.type) and column.type.tz is not None:
        # `days` reads texts in UTC that name no zone.
        column = column.cast(pyarrow.timestamp(column.type.unit))
    if is_moment(column.type):
        column = column.cast(_TEXT)
    elif types.is_decimal(column.type):
        column = column.cast(pyarrow.float64())
    return column.to_pylist()


def _numpy(column, missing=None) -> np.ndarray:
    if missing is not None and column.null_count:
        column = column.cast(pyarrow.float64(), safe=False)
        column = pc.fill_null(column, missing)
    if isinstance(column, pyarrow.ChunkedArray):
        return column.to_numpy()
    return column.to_numpy(zero_copy_only=False)


def _one_chunk(column):
    if isinstance(column, pyarrow.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pyarrow.ChunkedArray):  # Of no or of many bytes.
        column = pyarrow.concat_arrays(column.chunks)
    return column


def _wrong(name, what, column, error=None) -> ValueError:
    reason = f" Arrow says: {str(error).splitlines()[0]:.200}" if error else ""
    shown = next((v for v in column.slice(0, 100).to_pylist() if v), None)
    return ValueError(
        f"The feature {name!r} must hold {what}. Received: the type "
        f"{re.sub('large_', '', str(column.type))}, such as {shown!r:.80}."
        f"{reason} State another kind with `kdr.Features(table, "
        f"kinds={{{name!r}: ...}})`."
    )
