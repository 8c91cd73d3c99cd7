"""When it was: whole numbers, dates and ISO strings, as int64."""

import datetime
import re
from typing import Any

import numpy as np

from keras_dp_retrieval.data import arrow_texts
from keras_dp_retrieval.data.columns import (
    as_array,
    may_change,
    refuse_missing,
    types_in,
)

# Nanoseconds of 64 bits reach from September 1677 to April 2262.
FIRST_YEAR, LAST_YEAR = 1678, 2261

_INT64 = np.iinfo(np.int64)
_SECOND = 1_000_000_000  # nanoseconds
_UTC = datetime.UTC
_EPOCHS = {
    True: datetime.datetime(1970, 1, 1, tzinfo=_UTC),
    False: datetime.datetime(1970, 1, 1),
}
_ISO = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?)"
    r"(?: ?(?:([Zz])|([+-])(\d\d)(?::?(\d\d))?))?)?"
)


def timestamp_column(values) -> tuple[np.ndarray, bool]:
    """Returns `(n,)` int64 in the order of time, and whether it has dates.

    Whole numbers stay what they are, in whatever unit. Dates (of NumPy,
    pandas, Arrow or `datetime`, or ISO strings such as
    `2024-05-01T12:30:00.5+02:00`) become nanoseconds since 1970 in UTC; those
    without a zone count as UTC.

    Raises:
        ValueError: If one is missing, is neither, does not fit into 64 bits,
            or if dates with and without a zone are mixed.
    """
    texts = arrow_texts.of_library("timestamps", values)
    if texts is not None and len(texts):
        return _from_texts(texts), True
    column = as_array("timestamps", _in_utc(values))
    kind = column.dtype.kind
    if column.size == 0:
        return column.astype(np.int64), kind == "M"
    if kind == "O":
        return _from_objects(column)
    if kind == "U":
        return _from_strings(column), True
    if kind == "M":
        return _from_dates(column), True
    if kind == "u" and column.max() > _INT64.max:
        raise _wrong(int(np.argmax(column > _INT64.max)), column)
    if kind in "iu":
        return column.astype(np.int64, copy=may_change(column)), False
    if kind == "f":
        return _from_floats(column), False
    raise _wrong(0, column)


def _in_utc(values) -> Any:
    """Dates of pandas with a zone as dates without, at the same moments."""
    is_column = getattr(values, "ndim", 1) == 1
    of_series = getattr(values, "dt", values)
    if not is_column or getattr(of_series, "tz", None) is None:
        return values
    return of_series.tz_convert(None)


def _from_floats(column) -> np.ndarray:
    _refuse(np.isnan(column), column, missing=True)
    whole = (np.abs(column) < 2.0**63) & (column == np.floor(column))
    _refuse(~whole, column)
    return column.astype(np.int64)


def _from_dates(column) -> np.ndarray:
    _refuse(np.isnat(column), column, missing=True)
    unit = column.dtype
    if np.datetime_data(unit)[0] in ("ps", "fs", "as"):
        whole = column.astype("M8[ns]")
        _refuse(whole.astype(unit) != column, column)
        return whole.astype(np.int64)
    # NumPy would let what is too far away wrap around.
    first = np.datetime64(f"{FIRST_YEAR}-01-01").astype(unit)
    end = np.datetime64(f"{LAST_YEAR + 1}-01-01").astype(unit)
    _refuse((column < first) | (column >= end), column)
    fine = column.astype("M8[ns]", copy=may_change(column))
    return fine.view(np.int64)


def _from_objects(column) -> tuple[np.ndarray, bool]:
    refuse_missing("timestamps", column)
    kinds = types_in(column)
    if all(issubclass(kind, str) for kind in kinds):
        return _from_strings(column), True
    if all(issubclass(kind, datetime.date) for kind in kinds):
        return _from_datetimes(column), True
    if kinds == {np.datetime64}:
        parts = [_from_dates(np.array([date])) for date in column]
        return np.concatenate(parts), True
    good = [_is_whole(value) for value in column]
    _refuse(~np.array(good), column)
    # One by one: among floats NumPy would make floats of large whole numbers.
    return np.fromiter(map(int, column), np.int64, len(column)), False


def _is_whole(value) -> bool:
    if isinstance(value, (bool, np.bool_)) or not isinstance(
        value, (int, float, np.integer, np.floating)
    ):
        return False
    if not _INT64.min <= value <= _INT64.max:
        return False
    # The float 2**63 passes the comparison above.
    return value == int(value) and int(value) <= _INT64.max


def _from_datetimes(column) -> np.ndarray:
    inside = [FIRST_YEAR <= one.year <= LAST_YEAR for one in column]
    _refuse(~np.array(inside), column)
    zoned = [getattr(one, "tzinfo", None) is not None for one in column]
    _check_zones(zoned, column)
    epoch = _EPOCHS[zoned[0]]

    def nanoseconds(one):
        if not isinstance(one, datetime.datetime):  # The date of a day.
            one = datetime.datetime(one.year, one.month, one.day)
        since = one - epoch
        seconds = since.days * 86_400 + since.seconds
        # Timestamps of pandas have nanoseconds as well.
        rest = since.microseconds * 1000 + getattr(since, "nanoseconds", 0)
        return seconds * _SECOND + rest

    return np.fromiter(map(nanoseconds, column), np.int64, len(column))


def _from_strings(column) -> np.ndarray:
    texts = arrow_texts.of_array(column)
    if texts is None:
        return _from_list(column.tolist())
    return _from_texts(texts)


def _from_texts(texts) -> np.ndarray:
    """Strings of Arrow as nanoseconds; it knows most ways to write a date."""
    import pyarrow
    import pyarrow.compute as pc

    if pyarrow.types.is_dictionary(texts.type):
        texts = texts.cast(texts.type.value_type)
    # It would take an hour without minutes.
    after_hour = pc.unique(pc.utf8_slice_codeunits(texts, 13, 14)).to_pylist()
    only_hour = pc.any(pc.equal(pc.binary_length(texts), 13)).as_py()
    if set(after_hour) <= {"", ":"} and not only_hour:
        for zone in (None, "UTC"):
            try:
                times = texts.cast(pyarrow.timestamp("ns", zone)).to_numpy()
                return _from_dates(times)
            except (pyarrow.ArrowException, ValueError):
                continue  # What is wrong is said below.
    return _from_list(texts.to_pylist())


def _from_list(texts: list[str]) -> np.ndarray:
    found = [_ISO.fullmatch(text) for text in texts]
    _refuse(np.array([match is None for match in found]), texts)
    groups = [match.groups() for match in found if match]
    _check_zones([bool(z or sign) for *_, z, sign, _, _ in groups], texts)
    halves = [
        (time or "00:00").replace(",", ".").partition(".")
        for _, time, *_ in groups
    ]
    times = [
        f"{day}T{time}"
        for (day, *_), (time, *_) in zip(groups, halves, strict=True)
    ]
    try:
        seconds = np.array(times, "M8[s]")
    except ValueError:  # A 13th month.
        _refuse(np.array([not _is_date(time) for time in times]), texts)
        raise
    inside = _from_dates(seconds)
    fractions = [int(part.ljust(9, "0")) for *_, part in halves]
    shifts = [
        (int(hours) * 3600 + int(minutes or 0) * 60) * (1 - 2 * (sign == "-"))
        if sign
        else 0
        for *_, sign, hours, minutes in groups
    ]
    return inside + np.array(fractions) - np.array(shifts) * _SECOND


def _is_date(text: str) -> bool:
    try:
        np.datetime64(text, "s")
    except ValueError:
        return False
    return True


def _check_zones(zoned: list[bool], column) -> None:
    if any(zoned) and not all(zoned):
        row = zoned.index(not zoned[0])
        raise ValueError(
            "`timestamps` must all have a time zone, or none of them. "
            f"Received: {_shown(column[0])} in row 0 and "
            f"{_shown(column[row])} in row {row}."
        )


def _refuse(bad: np.ndarray, column, missing=False) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise _wrong(row, column, int(bad.sum()), missing)


def _wrong(row, column, count=1, missing=False) -> ValueError:
    what = "missing" if missing else "not"
    return ValueError(
        "`timestamps` must be whole numbers of 64 bits, dates from "
        f"{FIRST_YEAR} to {LAST_YEAR}, or strings such as "
        f"'2024-05-01T12:30:00'; none missing. Received {count} that are "
        f"{what}, the first in row {row}: {_shown(column[row])}."
    )


def _shown(value) -> str:
    if isinstance(value, np.datetime64):
        return str(value)
    value = value.item() if isinstance(value, np.generic) else value
    return f"{value!r:.60}"
