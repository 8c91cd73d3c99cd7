"""Interactions from data frames, and from files of each kind."""

import contextlib
import dataclasses
import logging
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from keras_dp_retrieval.data.columns import as_array
from keras_dp_retrieval.data.raw_data import RawRatings
from keras_dp_retrieval.data.readers.column_names import (
    found_columns,
    named_columns,
)
from keras_dp_retrieval.data.readers.repeats import (
    check_repeated,
    merge_repeated,
)
from keras_dp_retrieval.data.readers.row_filters import RowFilter

_log = logging.getLogger("keras_dp_retrieval")


@dataclasses.dataclass(frozen=True)
class Request:
    """What is wanted of a file or a frame.

    Args:
        columns: What `named_columns` returned.
        row_filter: Optional `RowFilter`.
        repeated: str. One of `repeats.REPEATED`.
    """

    columns: Mapping
    row_filter: RowFilter | None = None
    repeated: str = "keep"

    @classmethod
    def of(cls, *names, filters=None, repeated="keep") -> "Request":
        """Checks the arguments of the methods of `RetrievalDataset`."""
        columns = named_columns(*names)
        check_repeated(repeated, columns["weights"] is not None)
        row_filter = None if filters is None else RowFilter(filters)
        return cls(columns, row_filter, repeated)


def from_frame(frame, request: Request) -> tuple[RawRatings, str]:
    """Reads columns of a data frame of pandas, or of anything like it.

    Args:
        frame: A data frame of pandas or polars, an Arrow table, or a dict of
            columns.
        request: `Request`.

    Returns:
        `(raw, note)`: the interactions, and what was done to get them.
    """
    names = list(frame) if isinstance(frame, Mapping) else _names(frame)
    what = "The data frame"
    wanted, *notes = found_columns(request.columns, names, what)
    columns = {key: frame[name] for key, name in wanted.items()}
    if request.row_filter is not None:
        columns, note = _filtered(frame, names, columns, request.row_filter)
        notes.append(note)
    return _merged(RawRatings(**columns), request, notes)


def _filtered(frame, names, columns: dict, row_filter: RowFilter):
    """The rows of columns that are kept, and a note on how many."""
    import pyarrow

    row_filter.check_names(names, "The frame")
    try:
        compared = pyarrow.table(
            {name: _as_arrow(frame[name]) for name in row_filter.names}
        )
    except (TypeError, ValueError, OverflowError) as error:  # Arrow's, too.
        raise row_filter.does_not_fit(error) from error
    rows = np.flatnonzero(row_filter.mask(compared).to_numpy())
    note = row_filter.note(len(rows), len(compared))
    kept = {key: _picked(column, rows) for key, column in columns.items()}
    return kept, note


def _as_arrow(column):
    import pyarrow

    if isinstance(column, (pyarrow.Array, pyarrow.ChunkedArray)):
        return column
    if hasattr(column, "to_arrow"):  # Of polars.
        return column.to_arrow()
    return pyarrow.array(column, from_pandas=True)


def _picked(column, rows: np.ndarray):
    """Some entries of a column of whatever library."""
    if hasattr(column, "iloc"):  # Of pandas, where [] looks up labels.
        return column.iloc[rows]
    if hasattr(column, "take"):  # Of NumPy and Arrow.
        return column.take(rows)
    if hasattr(column, "gather"):  # Of polars.
        return column.gather(rows)
    return as_array("a column", column)[rows]


def _names(frame) -> list:
    # The `columns` of an Arrow table are not their names.
    for attribute in ("column_names", "columns"):
        names = getattr(frame, attribute, None)
        if names is not None and hasattr(frame, "__getitem__"):
            return list(names)
    raise ValueError(
        "`frame` must be a data frame of pandas or polars, an Arrow table or "
        f"a dict of columns. Received: a {type(frame).__name__}."
    )


def from_csv(path, request: Request) -> tuple[RawRatings, str]:
    """Reads columns of a CSV file; see `csv_files.from_csv`."""
    from keras_dp_retrieval.data.readers import csv_files

    with _naming(existing(path)) as path:
        raw, notes = csv_files.from_csv(
            path, request.columns, request.row_filter
        )
    return _merged(raw, request, notes)


def from_parquet(path, request: Request) -> tuple[RawRatings, str]:
    """Reads columns of Parquet files; see `parquet_files.from_parquet`."""
    from keras_dp_retrieval.data.readers import parquet_files

    with _naming(existing(path)) as path:
        raw, notes = parquet_files.from_parquet(
            path, request.columns, request.row_filter
        )
    return _merged(raw, request, notes)


@contextlib.contextmanager
def _naming(path: pathlib.Path):
    """Has errors name the file that they are about, where they do not yet."""
    try:
        yield path
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"In the file {str(path)!r}: {error}") from error


def _merged(raw: RawRatings, request: Request, notes: list[str]):
    raw, note = merge_repeated(raw, request.repeated)
    text = "; ".join(one for one in (*notes, note) if one)
    if text:
        _log.info("%s: %s", raw.name, text)
    return raw, text


def existing(path) -> pathlib.Path:
    """Returns a path to something that is there."""
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(
            f"`path` must be a path. Received: a {type(path).__name__}."
        )
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    return path
