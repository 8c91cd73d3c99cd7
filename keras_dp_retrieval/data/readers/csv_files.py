"""Columns of CSV files: by Arrow, and by Python what Arrow does not take."""

import codecs
import csv
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow
from pyarrow import csv as arrow_csv

from keras_dp_retrieval.data.raw_data import RawRatings
from keras_dp_retrieval.data.readers.column_names import (
    AUTO,
    found_columns,
)
from keras_dp_retrieval.data.readers.csv_columns import BUILDERS
from keras_dp_retrieval.data.readers.csv_pieces import (
    LONGEST_LINE,
    Pieces,
    open_text,
    quote_offsets,
    within_a_sentence,
)
from keras_dp_retrieval.data.readers.row_filters import RowFilter

_SEPARATORS = ",;\t"
_ROWS_AT_ONCE = 2**16  # Of those that Python reads.
_TEXT = pyarrow.string()


def from_csv(
    path: pathlib.Path, columns: Mapping, row_filter: RowFilter | None
) -> tuple[RawRatings, list[str]]:
    """Reads columns of a CSV file whose first line names them.

    They are separated by commas, semicolons or tabs: whatever gives the first
    line the names that are wanted. The file is text in UTF-8, as it is or
    packed with gzip.

    Ids become whole numbers if all of them are written as such (`7`, not
    `007`), else they stay strings. Timestamps are numbers or ISO dates.

    Args:
        path: Path.
        columns: What `named_columns` returned.
        row_filter: Optional `RowFilter`.

    Returns:
        `(raw, notes)`: the interactions, and what was done to get them.
    """
    with open_text(path) as pieces:
        separator, header = header_of(pieces.first_line(), columns)
        wanted, *notes = found_columns(columns, header, pieces.what)
        if row_filter is not None:
            row_filter.check_names(header, pieces.what)
        table = Table(wanted, header, separator, row_filter)
        read = table.read(pieces)
        if row_filter is not None:
            notes.append(row_filter.note(table.num_kept, table.num_rows))
    return RawRatings(**read, name=f"file {str(path)!r}"), notes


def header_of(first: str, columns: Mapping) -> tuple[str, list[str]]:
    """Returns the separator of a file, and the names of its columns.

    Args:
        first: str. Its first line.
        columns: dict. Its values are the names that must be there, or None or
            `"auto"`.
    """
    wanted = {name for name in columns.values() if name not in (None, AUTO)}
    found = [
        (separator, next(csv.reader([first], delimiter=separator), []))
        for separator in _SEPARATORS
    ]
    for separator, names in found:
        if len(names) > 1 and wanted <= set(names):
            return separator, names
    return max(found, key=lambda one: len(one[1]))


class Table:
    """The columns of a file that are wanted, as they are read.

    Args:
        wanted: What is wanted (`"user_ids"`, ...) to the column's name.
        header: The names of all columns.
        separator: str. One character.
        row_filter: Optional `RowFilter`.

    Attributes:
        num_rows: int. Rows that were read.
        num_kept: int. Those that met the filter.
    """

    def __init__(
        self,
        wanted: Mapping[str, str],
        header: Sequence[str],
        separator: str,
        row_filter: RowFilter | None = None,
    ):
        self.num_rows = self.num_kept = 0
        self._builders = {
            key: BUILDERS[key](name) for key, name in wanted.items()
        }
        self._indices = {
            key: header.index(name) for key, name in wanted.items()
        }
        self._filter = row_filter
        names = row_filter.names if row_filter else []
        self._compared = {name: header.index(name) for name in names}
        self._num_columns = len(header)
        self._separator = separator

    def read(self, pieces: Pieces) -> dict:
        """Returns each column that is wanted.

        Args:
            pieces: `Pieces`, after the first line if that names the columns.

        Raises:
            ValueError: If a line has another number of columns, or something
                in a column does not fit.
        """
        for piece in pieces:
            if not self._add(piece, pieces.is_cut):
                self._add_rows(pieces)
                break
        return {key: one.finish() for key, one in self._builders.items()}

    def _add(self, piece: bytes, is_cut: bool) -> bool:
        """Adds a piece of whole lines; False if Arrow does not take it."""
        if piece[0] in b"\r\n" and not piece.strip(b"\r\n"):
            return True  # An empty line is no row, as everywhere in CSV.
        if piece.startswith(codecs.BOM_UTF8):
            piece = b"\n" + piece  # Arrow would leave it out of an id.
        quotes = quote_offsets(piece)
        if is_cut or not _is_quoted_well(piece, quotes, self._separator):
            return False
        types = {
            index: self._builders[key].type
            for key, index in self._indices.items()
        }
        has_quotes = len(quotes) > 0
        table = self._parsed(piece, types, has_quotes)
        if table is None:  # Perhaps as a value was none of its type.
            types = dict.fromkeys(types, pyarrow.string())
            table = self._parsed(piece, types, has_quotes)
        if table is None:
            return False
        self._add_table(table)
        return True

    def _parsed(self, piece: bytes, types: dict, has_quotes: bool):
        """Columns by their indices: two may have one name."""
        types = {**dict.fromkeys(self._compared.values(), _TEXT), **types}
        column_types = {str(index): kind for index, kind in types.items()}
        try:
            return arrow_csv.read_csv(
                pyarrow.BufferReader(piece),
                arrow_csv.ReadOptions(
                    column_names=list(map(str, range(self._num_columns))),
                    block_size=LONGEST_LINE,
                ),
                arrow_csv.ParseOptions(
                    delimiter=self._separator, newlines_in_values=has_quotes
                ),
                arrow_csv.ConvertOptions(
                    column_types=column_types,
                    include_columns=list(column_types),
                    null_values=[],
                ),
            )
        except pyarrow.ArrowException:
            return None

    def _add_table(self, table) -> None:
        self.num_rows += len(table)
        if self._filter is not None:
            compared = {
                name: self._filter.cast(name, table.column(str(index)))
                for name, index in self._compared.items()
            }
            table = table.filter(self._filter.mask(pyarrow.table(compared)))
        self.num_kept += len(table)
        for key, index in self._indices.items():
            self._builders[key].add(table.column(str(index)))

    def _add_rows(self, pieces: Pieces) -> None:
        """Adds all that is left, line by line: or says what is wrong."""
        rows = self._rows(pieces)
        indices = {*self._indices.values(), *self._compared.values()}
        while block := list(itertools.islice(rows, _ROWS_AT_ONCE)):
            columns = {
                str(index): pyarrow.array([row[index] for row in block], _TEXT)
                for index in indices
            }
            self._add_table(pyarrow.table(columns))

    def _rows(self, pieces: Pieces) -> Iterator[list[str]]:
        before = pieces.lines_before()
        rows = csv.reader(
            pieces.lines(), delimiter=self._separator, strict=True
        )
        what = within_a_sentence(pieces.what)
        try:
            for row in rows:
                if row and len(row) != self._num_columns:
                    raise ValueError(
                        f"Line {before + rows.line_num} of {what} must have "
                        f"{self._num_columns} columns. Received: {len(row)}."
                    )
                if row:
                    yield row
        except csv.Error as error:
            raise ValueError(
                f"{pieces.what} must be a CSV file. Received, up to line "
                f"{before + rows.line_num}: {error}. Is there a quote too many?"
            ) from error


def _is_quoted_well(piece: bytes, quotes: np.ndarray, separator: str) -> bool:
    """Whether quotes stand around whole fields alone, or are doubled."""
    if not len(quotes):
        return True
    if len(quotes) % 2:
        return False
    ends = np.zeros(256, bool)
    ends[[*b"\r\n", ord(separator)]] = True
    text = np.frombuffer(b"\n" + piece + b"\n", np.uint8)
    opening, closing = quotes[::2], quotes[1::2]
    # Two quotes within quotes are one: there the first closes, as it were, and
    # the second opens again.
    again = opening[1:] == closing[:-1] + 1
    before, after = ends[text[opening]], ends[text[closing + 2]]
    before[1:] |= again
    after[:-1] |= again
    return bool(before.all() and after.all())
