"""Columns of data frames, Parquet files and CSV files, as NumPy arrays."""

import contextlib
import csv
import gzip
import io
import os
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from keras_dp_retrieval.data.raw_data import RawRatings

_SEPARATORS = ",;\t"

# No line of interactions is longer; a file of one endless line would fill the
# memory before anything could be said about it.
_LONGEST_LINE = 2**20

# Text of interactions shrinks to a third or a tenth. What grows more than
# this, beyond a size that does no harm, was made to fill the memory.
_MOST_GROWTH = 200
_HARMLESS_SIZE = 2**26


def from_frame(frame, columns: Mapping[str, str | None]) -> RawRatings:
    """Reads columns of a data frame of pandas, or of anything like it.

    Args:
        frame: A data frame of pandas or polars, an Arrow table, or a dict of
            columns.
        columns: What is wanted (`"user_ids"`, ...) to the column's name. None
            stands for a column that there is not.
    """
    wanted = {key: name for key, name in columns.items() if name is not None}
    names = list(frame) if isinstance(frame, Mapping) else _names(frame)
    _check_names(wanted, names, "The data frame")
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


def from_parquet(path, columns: Mapping[str, str | None]) -> RawRatings:
    """Reads columns of a Parquet file, or of a folder of them."""
    try:
        import pyarrow
        from pyarrow import dataset as arrow
    except ImportError as error:
        raise ImportError(
            "Parquet files need pyarrow: pip install pyarrow"
        ) from error
    path = _existing(path)
    wanted = {key: name for key, name in columns.items() if name is not None}
    try:
        table = arrow.dataset(path, format="parquet")
        _check_names(wanted, table.schema.names, f"The file {str(path)!r}")
        read = table.to_table(columns=list(set(wanted.values())))
        arrays = {key: _from_arrow(read[name]) for key, name in wanted.items()}
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{str(path)!r} must be a Parquet file, or a folder of them. It "
            "is damaged or something else. Arrow says: "
            f"{str(error).splitlines()[0]:.300}"
        ) from error
    return RawRatings(**arrays, name=str(path))


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

    They are separated by commas, semicolons or tabs: whatever gives the first
    line the names that are wanted. The file is text in UTF-8, as it is or
    packed with gzip.

    Ids become whole numbers if all of them are written as such (`7`, not
    `007`), else they stay strings. Timestamps are numbers or ISO dates.
    """
    path = _existing(path)
    wanted = {key: name for key, name in columns.items() if name is not None}
    with _clear_errors(path), _open(path) as file:
        texts = _read_columns(_lines(file, path), wanted, path)
    return RawRatings(
        **{
            key: _parse(key, name, column)
            for (key, name), column in zip(wanted.items(), texts, strict=True)
        },
        name=str(path),
    )


@contextlib.contextmanager
def _clear_errors(path: pathlib.Path):
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(
            f"The file {str(path)!r} must be text in UTF-8. Received: "
            f"{error}. Save it as UTF-8, or name the right file."
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"The file {str(path)!r} is damaged or incomplete: {error}."
        ) from error


def _open(path: pathlib.Path) -> io.TextIOBase:
    if path.is_dir():
        raise ValueError(
            f"`path` must be a CSV file. Received: the folder {str(path)!r}."
        )
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    opener = gzip.open if packed else open
    return opener(path, "rt", newline="", encoding="utf-8-sig")  # type: ignore


def _lines(file, path: pathlib.Path) -> Iterator[str]:
    """The lines of a file, as long as there is not too much in them."""
    most = max(_HARMLESS_SIZE, _MOST_GROWTH * os.path.getsize(path))
    size = number = 0
    while line := file.readline(_LONGEST_LINE + 1):
        number += 1
        size += len(line)
        if len(line) > _LONGEST_LINE:
            raise ValueError(
                f"Line {number} of {str(path)!r} must have at most "
                f"{_LONGEST_LINE:,} characters. Received: more. Is it a CSV "
                "file?"
            )
        if size > most:
            raise ValueError(
                f"The file {str(path)!r} must not unpack to more than "
                f"{_MOST_GROWTH} times its size. Received: more than {most:,} "
                "characters. If it is what you want to read, unpack it first."
            )
        yield line


def _read_columns(lines, wanted: Mapping[str, str], path) -> list[list[str]]:
    """Returns the texts of each column that is wanted."""
    first = next(lines, "")
    separator, header = _header(first, wanted)
    _check_names(wanted, header, f"The file {str(path)!r}")
    indices = [header.index(name) for name in wanted.values()]
    texts: list[list[str]] = [[] for _ in indices]
    rows = csv.reader(lines, delimiter=separator, strict=True)
    try:
        for row in rows:
            if not row:
                continue  # An empty line is no row, as everywhere in CSV.
            if len(row) != len(header):
                raise ValueError(
                    f"Line {rows.line_num + 1} of {str(path)!r} must have "
                    f"{len(header)} columns. Received: {len(row)}."
                )
            for column, index in zip(texts, indices, strict=True):
                column.append(row[index])
    except csv.Error as error:
        raise ValueError(
            f"{str(path)!r} must be a CSV file. Received, up to line "
            f"{rows.line_num + 1}: {error}. Is there a quote too many?"
        ) from error
    return texts


def _header(first: str, wanted: Mapping[str, str]) -> tuple[str, list[str]]:
    """Returns the separator of a file, and the names of its columns."""
    found = [
        (separator, next(csv.reader([first], delimiter=separator), []))
        for separator in _SEPARATORS
    ]
    for separator, names in found:
        if set(wanted.values()) <= set(names):
            return separator, names
    return max(found, key=lambda one: len(one[1]))


def _parse(key: str, name: str, texts: list[str]) -> Any:
    if "" in texts:
        raise ValueError(
            f"The column {name!r} must not have missing values. Received "
            f"{texts.count('')}, the first in row {texts.index('')}."
        )
    if key == "ratings":
        numbers = _converted(float, texts)
        if numbers is None:
            row = next(i for i, t in enumerate(texts) if not _is_number(t))
            raise ValueError(
                f"The column {name!r} must hold numbers. Received: "
                f"{texts[row]!r:.40} in row {row}."
            )
        return numbers
    numbers = _converted(int, texts)
    if key == "timestamps":
        return numbers or _converted(float, texts) or texts  # Or dates.
    if numbers is None or list(map(str, numbers)) != texts:
        return texts
    return numbers if max(map(abs, numbers), default=0) < 2**63 else texts


def _converted(number_type, texts: list[str]) -> list | None:
    try:
        return list(map(number_type, texts))
    except ValueError:
        return None


def _is_number(text: str) -> bool:
    return _converted(float, [text]) is not None


def _check_names(wanted: Mapping[str, str], there: list, what: str) -> None:
    missing = [name for name in wanted.values() if name not in there]
    if missing:
        raise ValueError(
            f"{what} must have the columns {list(wanted.values())}. Missing: "
            f"{missing}. There are: {there}. Name them with `user_column=...`, "
            "`candidate_column=...`, `rating_column=...` and "
            "`timestamp_column=...`."
        )
    twice = [name for name in wanted.values() if there.count(name) > 1]
    if twice:
        raise ValueError(
            f"{what} must have each column once. Received more than once: "
            f"{twice}."
        )


def _existing(path) -> pathlib.Path:
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(
            f"`path` must be a path. Received: a {type(path).__name__}."
        )
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    return path
