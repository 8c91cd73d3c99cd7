"""Reads tables of features from frames and files."""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np
import pyarrow
from pyarrow import csv as arrow_csv
from pyarrow import dataset as arrow_dataset

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.columns import id_column as checked_ids
from keras_dp_retrieval.data.encoded_ids import encode_ids
from keras_dp_retrieval.data.features.feature_table import FeatureTable
from keras_dp_retrieval.data.features.kinds import kinds_of
from keras_dp_retrieval.data.readers.column_names import (
    AUTO,
    find_id_column,
    names_ids,
)
from keras_dp_retrieval.data.readers.csv_columns import whole_numbers
from keras_dp_retrieval.data.vocabulary import Vocabulary

# Names that a tower's inputs have already.
RESERVED = ("user_id", "candidate_id", "history", "length")

# What an empty cell of a CSV file may look like. `NA` is Namibia.
_EMPTY_CELLS = ("", "NaN", "nan", "null", "NULL")
_SEPARATORS = ",;\t"


def table_of_columns(source, side, id_column, names, kinds) -> FeatureTable:
    """Makes a table of a data frame, an Arrow table or a dict of columns.

    Args:
        source: What was given.
        side: `"user"` or `"candidate"`.
        id_column: str. A name, or `"auto"`.
        names: Optional list of the columns to use.
        kinds: dict. What is stated of some columns.
    """
    named = named_columns_of(source, f"`{side}_features`")
    return _made(named, side, id_column, names, kinds)


def named_columns_of(source, what: str) -> dict:
    """Returns the columns of a frame or dict by name, as they are."""
    if isinstance(source, Mapping):
        return dict(source)
    for attribute in ("column_names", "columns"):
        names = getattr(source, attribute, None)
        if names is not None and hasattr(source, "__getitem__"):
            return {name: source[name] for name in names}
    raise ValueError(
        f"{what} must be a data frame of pandas or polars, an Arrow table, a "
        "dict of columns, or the path of a CSV or Parquet file. Received: a "
        f"{type(source).__name__}."
    )


def table_of_file(path: pathlib.Path, side, id_column, names, kinds):
    """Makes a table of a CSV file (also `.gz`) or of Parquet.

    Only empty cells, `NaN` and `null` are missing values in CSV. Arguments as
    in `table_of_columns`.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    is_written = False
    try:
        if _is_parquet(path):
            table = _parquet(path).to_table()
            read = {name: table[name] for name in table.column_names}
        else:
            read, id_column = _read_csv(path, side, id_column)
            is_written = True
    except (pyarrow.ArrowException, OSError, UnicodeError) as error:
        raise ValueError(
            f"{str(path)!r} must be a CSV file in UTF-8 whose first line names "
            "the columns, or a Parquet file. Arrow says: "
            f"{str(error).splitlines()[0]:.300}"
        ) from error
    made = _made(read, side, id_column, names, kinds)
    return dataclasses.replace(made, are_ids_written=is_written)


def column_names(path) -> list[str]:
    """The columns of a file; none if it cannot be read, which reading says."""
    path = pathlib.Path(path)
    try:
        if _is_parquet(path):
            return _parquet(path).schema.names
        return _csv_header(path)[0]
    except (pyarrow.ArrowException, OSError, UnicodeError):
        return []


def _is_parquet(path: pathlib.Path) -> bool:
    return path.is_dir() or path.suffix.lower() in (".parquet", ".pq")


def _parquet(path):
    return arrow_dataset.dataset(path, format="parquet", partitioning="hive")


def _csv_header(path) -> tuple[list[str], str]:
    """The names of the columns, and what separates them."""
    with pyarrow.input_stream(path, compression="detect") as stream:
        first = stream.read(2**16).split(b"\n", 1)[0].decode("utf-8-sig")
    separator = max(_SEPARATORS, key=first.count)
    names = [name.strip().strip('"') for name in first.split(separator)]
    return names, separator


def _read_csv(path: pathlib.Path, side: str, id_column: str):
    names, separator = _csv_header(path)
    ids = find_id_column(side, id_column, names, f"The file {str(path)!r}")
    with pyarrow.input_stream(path, compression="detect") as stream:
        read = arrow_csv.read_csv(
            stream,
            parse_options=arrow_csv.ParseOptions(
                delimiter=separator, newlines_in_values=True
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types={ids: pyarrow.string()},  # "007" is not 7.
                null_values=_EMPTY_CELLS,
                strings_can_be_null=True,
            ),
        )
    named = {name: read[name] for name in read.column_names}
    if not named[ids].null_count:
        # Whole numbers if all are written as such, as among interactions.
        numbers = whole_numbers(named[ids])
        named[ids] = named[ids] if numbers is None else numbers
    return named, ids


def _made(named: dict, side, id_column, names, kinds) -> FeatureTable:
    what = f"`{side}_features`"
    ids_name = find_id_column(side, id_column, list(named), what)
    wanted = _wanted(named, ids_name, names, what)
    ids = _ids(named[ids_name], f"{side}_features[{ids_name!r}]")
    if not len(ids):
        raise ValueError(f"{what} must have at least one row. Received: none.")
    _check_distinct(ids, what)
    columns = {name: as_arrow(name, named[name]) for name in wanted}
    for name, column in columns.items():
        if len(column) != len(ids):
            raise ValueError(
                f"All columns of {what} must have one entry for each id. "
                f"Received: {len(ids)} ids, and {len(column)} entries of "
                f"{name!r}."
            )
    return FeatureTable(ids, columns, kinds_of(columns, kinds), ids_name)


def _wanted(named, ids_name, names, what) -> list[str]:
    if names is None:
        names = [name for name in named if name != ids_name]
    missing = [name for name in names if name not in named]
    if missing:
        raise ValueError(
            f"{what} must have the columns {names}. Missing: {missing}. There "
            f"are: {list(named)}."
        )
    reserved = [name for name in names if name in RESERVED]
    if reserved or ids_name in names:
        raise ValueError(
            f"Columns of {what} must not be called {', '.join(RESERVED)}, as "
            "the towers' other inputs are, nor be the ids. Received: "
            f"{reserved or [ids_name]}. Choose others with "
            "`kdr.Features(table, columns=[...])`, or rename them."
        )
    if not names:
        raise ValueError(
            f"{what} must have a column beside the ids. Received: "
            f"{list(named)}."
        )
    for name in names:
        _checks.text("A column's name", name)
    return list(names)


def _ids(column, name: str) -> np.ndarray:
    if isinstance(column, pyarrow.ChunkedArray) and column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise ValueError(
            "Every row of features must have an id. Received: none in row "
            f"{row}."
        )
    return encode_ids(name, column).decoded()


def _check_distinct(ids: np.ndarray, what: str) -> None:
    distinct, counts = np.unique(ids, return_counts=True)
    if len(distinct) < len(ids):
        repeated = distinct[counts > 1]
        raise ValueError(
            f"{what} must have one row for each id. Received several for "
            f"{_checks.shown(repeated[0])}, and for {len(repeated) - 1} more "
            "ids. Keep one row each, such as with "
            "`frame.drop_duplicates('id')`."
        )


def as_arrow(name: str, column):
    """Returns a column of whatever library as a `pyarrow.ChunkedArray`."""
    try:
        if hasattr(column, "to_arrow"):  # Of polars.
            column = column.to_arrow()
        if isinstance(column, pyarrow.ChunkedArray):
            return column
        if not isinstance(column, pyarrow.Array):
            column = pyarrow.array(_plain(column), from_pandas=True)
        return pyarrow.chunked_array([column])
    except (TypeError, ValueError, OverflowError) as error:  # Arrow's, too.
        raise ValueError(
            f"A column of features must hold values of one type. Received: "
            f"{name!r}, of which Arrow says: "
            f"{str(error).splitlines()[0]:.200}"
        ) from error


def _plain(column):
    if isinstance(column, np.ndarray) and column.ndim > 1:
        return list(column)
    return column


def columns_for_ids(source, side, names, ids) -> dict:
    """What `feature_source.columns_for_ids` says."""
    what = f"`{side}_features`"
    named = named_columns_of(source, what)
    others = [name for name in named if name not in names]
    if ids is None or len(others) != 1 or not names_ids(side, others[0]):
        return named  # Any other column is an error of the encoders.
    table = _made(named, side, AUTO, None, {})
    known = Vocabulary(table.ids)
    wanted = checked_ids("ids", ids)
    rows = np.zeros(len(wanted), np.int32)
    if wanted.dtype.kind == known.ids.dtype.kind:
        rows = known.rows(wanted)
    if not rows.all():
        missing = wanted[rows == 0]
        raise ValueError(
            f"{what} must have a row for each id. Missing: "
            f"{_checks.shown(missing[0])}, and {len(missing) - 1} more."
        )
    return {name: one.take(rows - 1) for name, one in table.columns.items()}
