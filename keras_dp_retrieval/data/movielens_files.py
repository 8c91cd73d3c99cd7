"""Reads MovieLens from the files and archives that GroupLens publishes."""

import csv
import io
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from keras_dp_retrieval.data.archives import check_size, open_archive
from keras_dp_retrieval.data.movielens_versions import (
    REMEDY,
    VERSIONS,
    MovieLens,
    Version,
    check_data_dir,
)
from keras_dp_retrieval.data.raw_data import RawRatings


def read_files(version: str, data_dir) -> MovieLens:
    """Reads the files that GroupLens publishes.

    Args:
        version: str. A key of `VERSIONS`.
        data_dir: Path. The unpacked folder, its archive (`.zip`), or the
            folder that holds one of the two. An archive is read where it is:
            nothing is unpacked to disk.

    Raises:
        FileNotFoundError: If there is no such folder or file.
        ValueError: If the archive or the files are damaged, of another
            version, or do not have as many ratings as they should.
    """
    check_data_dir("files", str(data_dir))
    known = VERSIONS[version]
    read = _find_files(known, version, pathlib.Path(data_dir))
    ratings = _parse_ratings(read(known.ratings_file), known, version)
    titles = _parse_titles(read(known.movies_file), known)
    return MovieLens(ratings, titles)


def _find_files(known: Version, version: str, data_dir: pathlib.Path):
    """Returns a function from a file's name to its bytes."""
    if data_dir.is_file():
        return open_archive(data_dir, known, version)
    for folder in (data_dir, data_dir / known.folder):
        if (folder / known.ratings_file).is_file():
            return lambda name: _read_bytes(folder / name, known.most_bytes)
    archive = data_dir / f"{known.folder}.zip"
    if archive.is_file():
        return open_archive(archive, known, version)
    raise FileNotFoundError(
        f"MovieLens {version} needs the file {known.ratings_file}. Received: "
        f"data_dir={str(data_dir)!r}, where there is neither this file, nor "
        f"a folder {known.folder}, nor an archive {known.folder}.zip. {REMEDY}"
    )


def _read_bytes(path: pathlib.Path, most: int) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(
            f"The file {path.name} is missing in {str(path.parent)!r}. Unpack "
            "the archive of GroupLens once more."
        )
    check_size(path.name, path.stat().st_size, most)
    return path.read_bytes()


_RATING_NAMES = ("userId", "movieId", "rating", "timestamp")
_MOVIE_NAMES = ("movieId", "title")


def _parse_ratings(text: bytes, known: Version, version: str) -> RawRatings:
    where = f"{known.folder}/{known.ratings_file}"
    separator = known.separator.encode()
    if len(separator) > 1:  # NumPy takes one character.
        text, separator = text.replace(separator, b"\t"), b"\t"
    if not text.strip():
        raise ValueError(f"{where} must hold ratings. Received: an empty file.")
    indices: Sequence[int] = range(4)
    if known.has_header:
        indices = _column_indices(text, _RATING_NAMES, where)
    dtypes = ("i8", "i8", "f4", "i8")
    try:
        table = np.loadtxt(
            io.BytesIO(text),
            dtype=list(zip(_RATING_NAMES, dtypes, strict=True)),
            delimiter=separator.decode(),
            skiprows=1 if known.has_header else 0,
            # Without `usecols`, a column too many is an error.
            usecols=indices if known.has_header else None,
            ndmin=1,
            comments=None,
        )
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{where} must have four columns: user, movie, rating and time. "
            f"Received: {error}. Is the file damaged, or of another version?"
        ) from error
    if len(table) != known.num_ratings and not known.changes:
        raise ValueError(
            f"{where} must hold the {known.num_ratings:,} ratings of "
            f"MovieLens {version}. Received: {len(table):,}. Is the file "
            "damaged, or of another version?"
        )
    users, movies, stars, times = (
        np.ascontiguousarray(table[name]) for name in _RATING_NAMES
    )
    return RawRatings(users, movies, stars, times, where)


def _column_indices(text: bytes, names: Sequence[str], where: str) -> list[int]:
    """Returns the indices of the columns, by the first line of the file."""
    first = text.partition(b"\n")[0][:1000].decode("utf-8-sig", "replace")
    header = [name.strip().strip('"') for name in first.split(",")]
    if any(header.count(name) != 1 for name in names):
        raise ValueError(
            f"The first line of {where} must name the columns "
            f"{', '.join(names)}, each once. Received: {first[:80]!r}. Is the "
            "file damaged, or of another version?"
        )
    return [header.index(name) for name in names]


def _parse_titles(text: bytes, known: Version) -> dict[int, str]:
    where = f"{known.folder}/{known.movies_file}"
    number, title = 0, 1
    if known.has_header:
        number, title = _column_indices(text, _MOVIE_NAMES, where)
    try:
        lines = text.decode(known.encoding).splitlines()
        rows: Iterable[list[str]]
        if known.has_header:
            rows = csv.reader(lines[1:])
        else:
            separator = "|" if known.folder == "ml-100k" else known.separator
            rows = (line.split(separator) for line in lines)
        return {int(row[number]): row[title] for row in rows if row}
    except (ValueError, IndexError, csv.Error) as error:
        raise ValueError(
            f"{where} must hold an id and a title in each line. Received: "
            f"{error}. Is the file damaged?"
        ) from error
