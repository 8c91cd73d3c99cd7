"""Columns of Parquet files, and of folders of them."""

import pathlib
from collections.abc import Mapping

import pyarrow
from pyarrow import dataset as arrow

from keras_dp_retrieval.data.columns import refuse_rows
from keras_dp_retrieval.data.encoded_ids import encode_both
from keras_dp_retrieval.data.raw_data import COLUMNS, RawRatings
from keras_dp_retrieval.data.readers import limits
from keras_dp_retrieval.data.readers.column_names import found_columns
from keras_dp_retrieval.data.readers.row_filters import RowFilter

_BYTES_A_VALUE = 8


def from_parquet(
    path: pathlib.Path, columns: Mapping, row_filter: RowFilter | None
) -> tuple[RawRatings, list[str]]:
    """Reads columns of a Parquet file, or of a folder of them.

    Folders named as `event=purchase` are columns, too.

    Args:
        path: Path.
        columns: What `named_columns` returned.
        row_filter: Optional `RowFilter`.

    Returns:
        `(raw, notes)`: the interactions, and what was done to get them.
    """
    what = f"The file {str(path)!r}"
    try:
        source = arrow.dataset(path, format="parquet", partitioning="hive")
        wanted, *notes = found_columns(columns, source.schema.names, what)
        expression = None
        if row_filter is not None:
            row_filter.check_names(source.schema.names, what)
            expression = row_filter.expression()
        before = _states(source)
        _check_size(source, set(wanted.values()), path, before)
        read: dict = {}
        # Two at a time: what they are made of need not be there beside them.
        for keys in (COLUMNS[:2], COLUMNS[2:]):
            names = {key: wanted[key] for key in keys if key in wanted}
            if names:
                read.update(_read(source, names, expression))
                pyarrow.default_memory_pool().release_unused()
        if row_filter is not None:
            num_kept = len(read["user_ids"])
            notes.append(row_filter.note(num_kept, source.count_rows()))
        changed = _states(source) != before
    except (pyarrow.ArrowException, OSError, UnicodeError) as error:
        no_kernel = isinstance(error, pyarrow.ArrowNotImplementedError)
        if row_filter is not None and no_kernel:
            raise row_filter.does_not_fit(error) from error
        raise ValueError(
            f"{str(path)!r} must be a Parquet file, or a folder of them. It "
            "is damaged or something else. Arrow says: "
            f"{str(error).splitlines()[0]:.300}"
        ) from error
    if changed:
        raise limits.file_changed(repr(str(path)))
    return RawRatings(**read, name=f"file {str(path)!r}"), notes


def _states(source) -> dict[str, tuple[int, int]]:
    return {path: limits.state_of(path) for path in source.files}


def _check_size(source, names: set[str], path, states) -> None:
    """Raises a ValueError if a small file says that it holds very much."""
    size = 0
    for fragment in source.get_fragments():
        metadata = fragment.metadata
        size += metadata.num_rows * len(names) * _BYTES_A_VALUE
        for group in range(metadata.num_row_groups):
            columns = metadata.row_group(group)
            for index in range(columns.num_columns):
                column = columns.column(index)
                if column.path_in_schema in names:
                    size += column.total_uncompressed_size
    packed = sum(size_of_file for size_of_file, _ in states.values())
    if size > limits.most_unpacked(packed):
        raise ValueError(
            f"{str(path)!r} must not unpack to more than "
            f"{limits.MOST_GROWTH} times its size. Received: {packed:,} bytes "
            f"that unpack to {size:,}. If it is what you want to read, write "
            "it without compression and dictionaries first."
        )


def _read(source, names: Mapping[str, str], expression) -> dict:
    table = source.to_table(
        columns=sorted(set(names.values())), filter=expression
    )
    columns = {key: _checked(key, table[name]) for key, name in names.items()}
    if "user_ids" in names:
        return dict(zip(names, encode_both(columns), strict=True))
    return {key: column.to_numpy() for key, column in columns.items()}


def _checked(key: str, column):
    if column.null_count:
        # NumPy would make floats of whole numbers, and large ids lose digits.
        refuse_rows(key, column.is_null().to_numpy())
    return column
