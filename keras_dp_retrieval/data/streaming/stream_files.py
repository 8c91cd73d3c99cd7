"""Any source of columns, written as Parquet, to be read in any order."""

import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import keras
import numpy as np

# Rows of a row group, but for the last: what is in memory at a time.
_ROWS_A_GROUP = 2**20
_ENDLESS = "`source` must end. Received: {}. Pass it without `repeat()`."


def write_stream(source: Any, folder) -> pathlib.Path:
    """Writes all columns of a source into a new folder, or nothing.

    Args:
        source: A `tf.data.Dataset`, `keras.utils.PyDataset`, data set of
            Grain, or any iterable, of dicts of columns: arrays of one length.
        folder: Path that is not there yet.

    Returns:
        The folder.

    Raises:
        ValueError: If there is something in the folder, the source does not
            end or has no rows, or an element is no dict of columns, or of
            other columns or types than the first.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise ValueError(
            f"`folder` must be a path. Received: a {type(folder).__name__}."
        )
    folder = pathlib.Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"`folder` must be new or empty. Received: {str(folder)!r}, where "
            "there is something. Read it with `RetrievalDataset.from_parquet("
            "folder, streaming=True)`, or choose another."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when it is whole, so that no half of it is ever read.
    partial = pathlib.Path(
        tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent)
    )
    try:
        _write(_tables(_elements(source)), partial / "0.parquet")
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder


def _elements(source: Any) -> Iterable:
    if isinstance(source, keras.utils.PyDataset):
        if source.num_batches is None:
            raise ValueError(
                _ENDLESS.format("a PyDataset without a number of batches")
            )
        return (source[index] for index in range(source.num_batches))
    if hasattr(source, "cardinality") and hasattr(source, "as_numpy_iterator"):
        if int(source.cardinality()) == -1:  # tf.data.INFINITE_CARDINALITY
            raise ValueError(
                _ENDLESS.format("a tf.data.Dataset that repeats for ever")
            )
        return source.as_numpy_iterator()
    if isinstance(source, (str, Mapping)) or not isinstance(source, Iterable):
        raise ValueError(
            "`source` must be a `tf.data.Dataset`, a `PyDataset`, a data set "
            "of Grain or an iterable, of dicts of columns. Received: a "
            f"{type(source).__name__}."
        )
    if isinstance(source, Sized) and len(source) >= 2**62:
        raise ValueError(_ENDLESS.format("a source that repeats for ever"))
    return source


def _tables(elements: Iterable) -> Iterator:
    """The elements as tables of Arrow."""
    for number, element in enumerate(elements):
        if not isinstance(element, Mapping) or not element:
            raise ValueError(
                "`source` must have dicts of columns. Received: a "
                f"{type(element).__name__} as element {number}. Map it to "
                "such as `{'user_id': ..., 'candidate_id': ...}`."
            )
        columns = {
            str(name): _column(name, values, number)
            for name, values in element.items()
        }
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                "All columns must have one entry for each row. Received the "
                f"lengths {lengths} in element {number}."
            )
        import pyarrow

        yield pyarrow.table(columns)


def _column(name, values, number: int):
    import pyarrow

    array = np.asarray(keras.ops.convert_to_numpy(values))
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(
            "The columns of `source` must be one-dimensional. Received: "
            f"{str(name)!r} of shape {array.shape} in element {number}. Batch "
            "the source: `source.batch(10_000)`."
        )
    try:
        column = pyarrow.array(array)
        if pyarrow.types.is_binary(column.type):  # Of TensorFlow.
            column = column.cast(pyarrow.string())
    except (pyarrow.ArrowException, UnicodeError) as error:
        raise ValueError(
            f"The columns of `source` must be numbers, dates or texts. "
            f"Received: {str(name)!r} in element {number}. {error}"
        ) from error
    return column


def _write(tables: Iterator, path: pathlib.Path) -> None:
    import pyarrow
    from pyarrow import parquet

    first = next(tables, None)
    if first is None:
        raise ValueError("`source` must have rows. Received: none.")
    waiting, num_rows = [first], len(first)
    with parquet.ParquetWriter(path, first.schema) as writer:
        for number, table in enumerate(tables, 1):
            if table.schema != first.schema:
                raise ValueError(
                    "All elements of `source` must have the same columns. "
                    f"Received: {_shown(table)} in element {number}, and "
                    f"{_shown(first)} before."
                )
            waiting.append(table)
            num_rows += len(table)
            if num_rows >= _ROWS_A_GROUP:
                writer.write_table(
                    pyarrow.concat_tables(waiting), _ROWS_A_GROUP
                )
                waiting, num_rows = [], 0
        if waiting:
            writer.write_table(pyarrow.concat_tables(waiting), _ROWS_A_GROUP)


def _shown(table) -> dict:
    return {field.name: str(field.type) for field in table.schema}
