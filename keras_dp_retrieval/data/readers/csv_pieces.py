"""A CSV file in pieces of whole lines, and line by line where it must be."""

import codecs
import contextlib
import gzip
import pathlib
import zlib
from collections.abc import Iterator
from typing import IO

import numpy as np

from keras_dp_retrieval.data.readers import limits

# So many bytes are parsed at once: enough for every core, and little beside
# the columns that come out.
PIECE = 2**25

# No line of interactions is longer; a file of one endless line would fill the
# memory before anything could be said about it.
LONGEST_LINE = 2**20

# Lines that end inside of quotes, one after the other, from a piece's end on.
_MOST_TRIES = 1000


@contextlib.contextmanager
def open_text(path: pathlib.Path) -> Iterator["Pieces"]:
    """Opens a file, as it is or packed with gzip.

    Raises:
        ValueError: While it is read, if it is damaged, unpacks to far too
            much, is no UTF-8, or is changed by somebody.
    """
    if path.is_dir():
        raise ValueError(
            f"`path` must be a CSV file. Received: the folder {str(path)!r}."
        )
    before = limits.state_of(path)
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    opener = gzip.open if packed else open
    most = limits.most_unpacked(before[0])
    what = f"The file {str(path)!r}"
    try:
        with opener(path, "rb") as file:
            yield Pieces(file, what, most if packed else None)  # type: ignore
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{what} is damaged or incomplete: {error}."
        ) from error
    if limits.state_of(path) != before:
        raise limits.file_changed(what)


class Pieces:
    """What a file holds, in pieces that end where a line does.

    Args:
        file: A file of bytes.
        what: str. How error messages call it.
        most: Optional int. How many bytes there may be in it.
        long_separator: bytes. A separator of several characters; it becomes a
            tab.

    Attributes:
        is_cut: bool. Whether that piece ends within a line.
    """

    def __init__(
        self,
        file: IO[bytes],
        what: str,
        most: int | None = None,
        long_separator: bytes = b"",
    ):
        self.what = what
        self.is_cut = False
        self._file = file
        self._most = most
        self._long_separator = long_separator
        self._size = 0
        self._rest = b""
        self._last_piece = b""
        self._num_bytes = 0  # Before the last piece.

    def first_line(self) -> str:
        """Reads the first line, without the mark of UTF-8 before it."""
        start = self._read(2**16)
        end = next((i for i, one in enumerate(start) if one in b"\r\n"), None)
        if end is None:
            end = len(start)
        after = end + (2 if start[end : end + 2] == b"\r\n" else 1)
        self._rest = start[after:]
        self._num_bytes = min(after, len(start))
        return self._decoded(start[:end].removeprefix(codecs.BOM_UTF8), 1)

    def __iter__(self) -> Iterator[bytes]:
        while piece := self._next():
            self._last_piece = piece
            yield self._with_tabs(piece)
            self._num_bytes += len(piece)

    def _next(self) -> bytes:
        block = self._read(PIECE)
        piece = self._rest + block
        if block:
            end = _last_end(piece)
            # Without an end, a line would be longer than any piece: then who
            # reads line by line has something to say.
            if end or len(piece) <= LONGEST_LINE:
                self._rest = piece[end:]
                return piece[:end] or self._next()
        self.is_cut = bool(block)
        self._rest = b""
        return piece

    def lines(self) -> Iterator[str]:
        """Yields the lines from the last piece on."""
        number = self.lines_before()
        kept = self._last_piece + self._rest
        self._last_piece = self._rest = b""
        while kept or (kept := self._read(PIECE)):
            start = 0
            while start < len(kept):
                end = kept.find(b"\n", start, start + LONGEST_LINE) + 1
                if not end and len(kept) - start <= LONGEST_LINE:
                    more = self._read(PIECE)
                    if more:
                        kept, start = kept[start:] + more, 0
                        continue
                    end = len(kept)
                number += 1
                if not end:
                    what = within_a_sentence(self.what)
                    raise ValueError(
                        f"Line {number} of {what} must have at most "
                        f"{LONGEST_LINE:,} characters. Received: more. Is it "
                        "a CSV file?"
                    )
                line = self._with_tabs(kept[start:end])
                yield self._decoded(line, number)
                start = end
            kept = b""

    def lines_before(self) -> int:
        """How many lines there are before the last piece."""
        place = self._file.tell()
        self._file.seek(0)
        number, left = 0, self._num_bytes
        while left and (block := self._file.read(min(left, PIECE))):
            number += block.count(b"\n")
            left -= len(block)
        self._file.seek(place)
        return number

    def _read(self, num: int) -> bytes:
        if self._most is not None:
            num = min(num, self._most - self._size + 1)
        block = self._file.read(num)
        self._size += len(block)
        if self._most is not None and self._size > self._most:
            raise ValueError(
                f"{self.what} must not unpack to more than "
                f"{limits.MOST_GROWTH} times its size. Received: more than "
                f"{self._most:,} characters. If it is what you want to read, "
                "unpack it first."
            )
        return block

    def _with_tabs(self, piece: bytes) -> bytes:
        if self._long_separator:
            return piece.replace(self._long_separator, b"\t")
        return piece

    def _decoded(self, line: bytes, number: int) -> str:
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self.what} must be text in UTF-8. Received, in line "
                f"{number}: {error}. Save it as UTF-8, or name the right file."
            ) from error


def within_a_sentence(what: str) -> str:
    """What a file is called, where no sentence begins with it."""
    return what[0].lower() + what[1:]


def _last_end(piece: bytes) -> int:
    """Where the last line ends whose quotes are closed; 0 if none does."""
    quotes = quote_offsets(piece)
    end = len(piece)
    for _ in range(_MOST_TRIES):
        newline = piece.rfind(b"\n", 0, end)
        before = int(np.searchsorted(quotes, newline))
        if before % 2 == 0:
            return newline + 1
        end = int(quotes[before - 1])
    return piece.rfind(b"\n") + 1  # A quote too many, as will be said.


def quote_offsets(piece: bytes) -> np.ndarray:
    """`(n,)` int64: where there are quotes."""
    if b'"' not in piece:
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.frombuffer(piece, np.uint8) == ord('"'))
