"""Interactions from data frames, and from files of each kind."""

import os
import pathlib
from collections.abc import Mapping

from keras_dp_retrieval.data.raw_data import RawRatings
from keras_dp_retrieval.data.readers.column_names import check_names


def from_frame(frame, columns: Mapping[str, str | None]) -> RawRatings:
    """Reads columns of a data frame of pandas, or of anything like it.

    Args:
        frame: A data frame of pandas or polars, an Arrow table, or a dict of
            columns.
        columns: What is wanted (`"user_ids"`, ...) to the column's name. None
            stands for a column that there is not.
    """
    wanted = _wanted(columns)
    names = list(frame) if isinstance(frame, Mapping) else _names(frame)
    check_names(wanted, names, "The data frame")
    return RawRatings(**{key: frame[name] for key, name in wanted.items()})


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


def from_csv(path, columns: Mapping[str, str | None]) -> RawRatings:
    """Reads columns of a CSV file; see `csv_files.from_csv`."""
    from keras_dp_retrieval.data.readers import csv_files

    return csv_files.from_csv(_existing(path), _wanted(columns))


def from_parquet(path, columns: Mapping[str, str | None]) -> RawRatings:
    """Reads columns of Parquet files; see `parquet_files.from_parquet`."""
    from keras_dp_retrieval.data.readers import parquet_files

    return parquet_files.from_parquet(_existing(path), _wanted(columns))


def _wanted(columns: Mapping[str, str | None]) -> dict[str, str]:
    return {key: name for key, name in columns.items() if name is not None}


def _existing(path) -> pathlib.Path:
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(
            f"`path` must be a path. Received: a {type(path).__name__}."
        )
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    return path
