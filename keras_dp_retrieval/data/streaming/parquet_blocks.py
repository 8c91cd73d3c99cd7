"""Parquet files as blocks of rows, one row group each, read one at a time."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping

from keras_dp_retrieval.data.columns import refuse_rows
from keras_dp_retrieval.data.readers import limits
from keras_dp_retrieval.data.readers.column_names import (
    found_columns,
)
from keras_dp_retrieval.data.readers.row_filters import RowFilter

# A block is read as a whole, and several are in memory at a time.
MOST_ROWS = 2**24
MOST_BYTES = 2**31


class ParquetBlocks:
    """The row groups of a Parquet file, or of a folder of them.

    Only the ends of the files, which say what is in them, are read here.
    Folders named as `event=purchase` are columns, too.

    Args:
        path: Path.
        columns: What `named_columns` returned.
        row_filter: Optional `RowFilter`.

    Attributes:
        wanted: dict from `"user_ids"`, ... to the column's name.
        note: str. Which columns were found by their names.

    Raises:
        ValueError: If there are no Parquet files, one is damaged, or a row
            group is too large to be read at once.
    """

    def __init__(
        self,
        path: pathlib.Path,
        columns: Mapping,
        row_filter: RowFilter | None,
    ):
        from pyarrow import dataset as arrow  # Takes a while.

        self.path = path
        self._row_filter = row_filter
        self._expression = None
        with _damaged(path):
            source = arrow.dataset(path, format="parquet", partitioning="hive")
        if not source.files:
            raise ValueError(
                f"The folder {str(path)!r} must hold Parquet files. Received: "
                "a folder without any."
            )
        self._schema = source.schema
        what = f"The file {str(path)!r}"
        self.wanted, self.note = found_columns(
            columns, self._schema.names, what
        )
        if row_filter is not None:
            row_filter.check_names(self._schema.names, what)
            self._expression = row_filter.expression()
        self._states: dict[str, tuple[int, int]] = {}
        self._blocks: list = []
        # By name, as folders are listed in another order elsewhere.
        for fragment in sorted(source.get_fragments(), key=lambda f: f.path):
            self._add_file(fragment)

    def _add_file(self, fragment) -> None:
        with _damaged(fragment.path):
            self._states[fragment.path] = limits.state_of(fragment.path)
            first = 0
            for group in fragment.row_groups:
                where = f"{fragment.path!r}, from row {first}"
                _check_group(group, where)
                if group.num_rows:
                    piece = fragment.subset(row_group_ids=[group.id])
                    self._blocks.append((piece, where, group.num_rows))
                first += group.num_rows

    def __len__(self) -> int:
        return len(self._blocks)

    def names(self) -> list[tuple[str, int, int]]:
        """The files: name inside the folder, bytes, and row groups."""
        numbers: dict[str, int] = {}
        for fragment, *_ in self._blocks:
            numbers[fragment.path] = numbers.get(fragment.path, 0) + 1
        root = self.path if self.path.is_dir() else self.path.parent
        return [
            (
                pathlib.Path(path).relative_to(root).as_posix(),
                size,
                numbers.get(path, 0),
            )
            for path, (size, _) in self._states.items()
        ]

    def where(self, block: int) -> str:
        """How errors call a block: its file, and its first row in it."""
        return self._blocks[block][1]

    def read(self, block: int, keys) -> dict:
        """Returns some columns of a block, those rows that are kept.

        Args:
            block: int.
            keys: Of `wanted`.

        Returns:
            dict from key to a column of Arrow.

        Raises:
            ValueError: If the file is damaged or has changed since it was
                looked at, or a value is missing.
        """
        fragment, where, _ = self._blocks[block]
        names = [self.wanted[key] for key in keys]
        with _damaged(fragment.path, self._row_filter):
            if limits.state_of(fragment.path) != self._states[fragment.path]:
                raise limits.file_changed(repr(fragment.path))
            table = fragment.to_table(
                schema=self._schema,
                columns=sorted(set(names)),
                filter=self._expression,
            )
        columns = dict(zip(keys, map(table.column, names), strict=True))
        for key, column in columns.items():
            if column.null_count:
                with counted_from(where):
                    refuse_rows(key, column.is_null().to_numpy())
        return columns

    def filter_note(self, num_kept: int) -> str:
        """Says how many rows the filter keeps, or `""` without one."""
        if self._row_filter is None:
            return ""
        num_rows = sum(rows for *_, rows in self._blocks)
        return self._row_filter.note(num_kept, num_rows)


@contextlib.contextmanager
def counted_from(where: str) -> Iterator[None]:
    """Says where the rows are that an error counts."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{error} (Rows are those of {where}.)") from error


@contextlib.contextmanager
def _damaged(path, row_filter: RowFilter | None = None) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeError) as error:
        no_kernel = isinstance(error, pyarrow.ArrowNotImplementedError)
        if row_filter is not None and no_kernel:
            raise row_filter.does_not_fit(error) from error
        raise ValueError(
            f"{str(path)!r} must be a Parquet file, or a folder of them. It "
            "is damaged, gone or something else. Arrow says: "
            f"{str(error).splitlines()[0]:.300}"
        ) from error


def _check_group(group, where: str) -> None:
    if group.num_rows <= MOST_ROWS and group.total_byte_size <= MOST_BYTES:
        return
    raise ValueError(
        f"Row groups must have at most {MOST_ROWS:,} rows and {MOST_BYTES:,} "
        f"bytes, as one is read at a time. Received: {group.num_rows:,} rows "
        f"and {group.total_byte_size:,} bytes in {where}. Write the file with "
        "smaller ones, such as `pandas.DataFrame.to_parquet(path, "
        "row_group_size=1_000_000)`."
    )
