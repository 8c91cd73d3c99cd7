"""Columns of CSV files: by Arrow, and by Python what Arrow does not take."""

import csv
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow
from pyarrow import csv as arrow_csv

from keras_dp_retrieval.data.raw_data import RawRatings
from keras_dp_retrieval.data.readers.column_names import check_names
from keras_dp_retrieval.data.readers.csv_columns import BUILDERS
from keras_dp_retrieval.data.readers.csv_pieces import (
    LONGEST_LINE,
    Pieces,
    open_text,
    quote_places,
)

_SEPARATORS = ",;\t"
_ROWS_AT_ONCE = 2**16  # Of those that Python reads.


def from_csv(path: pathlib.Path, wanted: Mapping[str, str]) -> RawRatings:
    """Reads columns of a CSV file whose first line names them.

    They are separated by commas, semicolons or tabs: whatever gives the first
    line the names that are wanted. The file is text in UTF-8, as it is or
    packed with gzip.

    Ids become whole numbers if all of them are written as such (`7`, not
    `007`), else they stay strings. Timestamps are numbers or ISO dates.

    Args:
        path: Path.
        wanted: What is wanted (`"user_ids"`, ...) to the column's name.
    """
    with open_text(path) as pieces:
        separator, header = _header(pieces.first_line(), wanted)
        check_names(wanted, header, pieces.what)
        columns = read_columns(pieces, wanted, header, separator)
    return RawRatings(**columns, name=str(path))


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


def read_columns(
    pieces: Pieces,
    wanted: Mapping[str, str],
    header: Sequence[str],
    separator: str,
) -> dict:
    """Returns each column that is wanted.

    Args:
        pieces: `Pieces`, after the first line if that names the columns.
        wanted: What is wanted to the column's name.
        header: The names of all columns.
        separator: str. One character.

    Raises:
        ValueError: If a line has another number of columns, or something in
            a column does not fit.
    """
    table = _Table(wanted, header, separator)
    for piece in pieces:
        if not table.add(piece, pieces.is_cut):
            table.add_rows(pieces)
            break
    return table.finish()


class _Table:
    def __init__(self, wanted, header, separator):
        self._builders = {
            key: BUILDERS[key](name) for key, name in wanted.items()
        }
        self._places = {key: header.index(name) for key, name in wanted.items()}
        self._num_columns = len(header)
        self._separator = separator

    def add(self, piece: bytes, is_cut: bool) -> bool:
        """Adds a piece of whole lines; False if Arrow does not take it."""
        if piece[0] in b"\r\n" and not piece.strip(b"\r\n"):
            return True  # An empty line is no row, as everywhere in CSV.
        quotes = quote_places(piece)
        if is_cut or not _is_quoted_well(piece, quotes, self._separator):
            return False
        has_quotes = len(quotes) > 0
        types = {key: one.type for key, one in self._builders.items()}
        read = self._read(piece, types, has_quotes)
        if read is None:  # Perhaps as a value was none of its type.
            texts = dict.fromkeys(types, pyarrow.string())
            read = self._read(piece, texts, has_quotes)
        if read is None:
            return False
        for key, column in read.items():
            self._builders[key].add(column)
        return True

    def _read(self, piece: bytes, types: dict, has_quotes: bool):
        # By their places: two columns that nobody wants may have one name.
        names = [str(place) for place in range(self._num_columns)]
        told = {str(self._places[key]): kind for key, kind in types.items()}
        try:
            table = arrow_csv.read_csv(
                pyarrow.BufferReader(piece),
                arrow_csv.ReadOptions(
                    column_names=names, block_size=LONGEST_LINE
                ),
                arrow_csv.ParseOptions(
                    delimiter=self._separator, newlines_in_values=has_quotes
                ),
                arrow_csv.ConvertOptions(
                    column_types=told,
                    include_columns=list(told),
                    null_values=[],
                ),
            )
        except pyarrow.ArrowException:
            return None
        return {
            key: table.column(str(place)) for key, place in self._places.items()
        }

    def add_rows(self, pieces: Pieces) -> None:
        """Adds all that is left, line by line: or says what is wrong."""
        rows = self._rows(pieces)
        while block := list(itertools.islice(rows, _ROWS_AT_ONCE)):
            for key, place in self._places.items():
                texts = pyarrow.array(
                    [row[place] for row in block], pyarrow.string()
                )
                self._builders[key].add(pyarrow.chunked_array(texts))

    def _rows(self, pieces: Pieces) -> Iterator[list[str]]:
        before = pieces.lines_before()
        rows = csv.reader(
            pieces.lines(), delimiter=self._separator, strict=True
        )
        what = pieces.what[0].lower() + pieces.what[1:]
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

    def finish(self) -> dict:
        return {key: one.finish() for key, one in self._builders.items()}


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
