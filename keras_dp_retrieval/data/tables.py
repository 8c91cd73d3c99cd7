"""Columns of data frames, Parquet files and CSV files, as NumPy arrays."""

import csv
import pathlib
from collections.abc import Mapping

import numpy as np

from keras_dp_retrieval.data.ratings import RawRatings


def from_frame(frame, columns: Mapping[str, str | None]) -> RawRatings:
    """Reads columns of a data frame of pandas, or of anything like it.

    Args:
        frame: Has `.columns`, and `frame[name].to_numpy()`.
        columns: What is wanted (`"user_ids"`, ...) to the column's name. None
            stands for a column that there is not.
    """
    wanted = {key: name for key, name in columns.items() if name is not None}
    _check_names(wanted, list(frame.columns), "The data frame")
    return RawRatings(
        **{key: frame[name].to_numpy() for key, name in wanted.items()}
    )


def from_parquet(path, columns: Mapping[str, str | None]) -> RawRatings:
    """Reads columns of a Parquet file, or of a folder of them."""
    try:
        from pyarrow import dataset as arrow
    except ImportError as error:
        raise ImportError(
            "Parquet files need pyarrow: pip install pyarrow"
        ) from error
    path = _existing(path)
    wanted = {key: name for key, name in columns.items() if name is not None}
    table = arrow.dataset(path, format="parquet")
    _check_names(wanted, table.schema.names, f"The file {str(path)!r}")
    read = table.to_table(columns=list(set(wanted.values())))
    return RawRatings(
        **{key: _from_arrow(read[name]) for key, name in wanted.items()},
        name=str(path),
    )


def _from_arrow(column) -> np.ndarray:
    if column.null_count and column.type in _whole_number_types():
        # As floats, which Arrow would make of them, large ids lose digits.
        return np.array(column.to_pylist(), object)
    return column.to_numpy()


def _whole_number_types():
    import pyarrow

    signed = [pyarrow.int8(), pyarrow.int16(), pyarrow.int32(), pyarrow.int64()]
    return [*signed, pyarrow.uint8(), pyarrow.uint16(), pyarrow.uint32()]


def from_csv(path, columns: Mapping[str, str | None]) -> RawRatings:
    """Reads columns of a CSV file whose first line names them.

    Ids become whole numbers if all of them are written as such (`7`, not
    `007`), else they stay strings.
    """
    path = _existing(path)
    wanted = {key: name for key, name in columns.items() if name is not None}
    with open(path, newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        header = next(lines, [])
        _check_names(wanted, header, f"The file {str(path)!r}")
        places = [header.index(name) for name in wanted.values()]
        rows = []
        for line in lines:
            if not line:
                continue  # An empty line is no row, as everywhere in CSV.
            if len(line) != len(header):
                raise ValueError(
                    f"Line {lines.line_num} of {str(path)!r} must have "
                    f"{len(header)} columns. Received: {len(line)}."
                )
            rows.append([line[place] for place in places])
    texts = np.array(rows, str).reshape(len(rows), len(places)).T
    return RawRatings(
        **{
            key: _parse(key, name, column)
            for (key, name), column in zip(wanted.items(), texts, strict=True)
        },
        name=str(path),
    )


def _parse(key: str, name: str, column: np.ndarray) -> np.ndarray:
    empty = column == ""
    if empty.any():
        raise ValueError(
            f"The column {name!r} must not have missing values. Received "
            f"{int(empty.sum())}, the first in row {int(empty.argmax())}."
        )
    dtype = np.float64 if key == "ratings" else np.int64
    try:
        numbers = column.astype(dtype)
    except (ValueError, OverflowError) as error:
        if key.endswith("_ids"):
            return column
        raise ValueError(
            f"The column {name!r} must hold numbers: {error}."
        ) from error
    if key.endswith("_ids") and (numbers.astype(str) != column).any():
        return column
    return numbers


def _check_names(wanted: Mapping[str, str], there: list, what: str) -> None:
    missing = [name for name in wanted.values() if name not in there]
    if missing:
        raise ValueError(
            f"{what} must have the columns {list(wanted.values())}. Missing: "
            f"{missing}. There are: {there}. Name them with `user_column=...`, "
            "`candidate_column=...`, `rating_column=...` and "
            "`timestamp_column=...`."
        )


def _existing(path) -> pathlib.Path:
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    return path
