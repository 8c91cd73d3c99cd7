"""Reads MovieLens from the files and archives that GroupLens publishes."""

import csv
import pathlib
import re
import zipfile
from collections.abc import Iterable, Sequence
from typing import IO

import numpy as np

from keras_dp_retrieval.data.archives import check_size, open_archive
from keras_dp_retrieval.data.features.feature_table import FeatureTable
from keras_dp_retrieval.data.movielens_features import (
    GENRES_OF_100K,
    OCCUPATIONS_OF_1M,
    movie_features,
    user_features,
)
from keras_dp_retrieval.data.movielens_versions import (
    REMEDY,
    VERSIONS,
    MovieLens,
    Version,
    check_data_dir,
)
from keras_dp_retrieval.data.raw_data import COLUMNS, RawRatings


def read_files(version: str, data_dir, features: bool = False) -> MovieLens:
    """Reads the files that GroupLens publishes.

    Args:
        version: str. A key of `VERSIONS`.
        data_dir: Path. The unpacked folder, its archive (`.zip`), or the
            folder that holds one of the two. An archive is read where it is:
            nothing is unpacked to disk.
        features: bool. Whether to read what is known of users and movies.

    Raises:
        FileNotFoundError: If there is no such folder or file.
        ValueError: If the archive or the files are damaged, of another
            version, or do not have as many ratings as they should, or if
            `data_dir` is a file that is no archive.
    """
    check_data_dir("files", str(data_dir))
    known = VERSIONS[version]
    open_file = _find_files(known, version, pathlib.Path(data_dir))
    with open_file(known.ratings_file) as file:
        ratings = _read_ratings(file, known, version)
    with open_file(known.movies_file) as file:
        movies = _parse_movies(file.read(), known)
    titles = {number: title for number, title, _ in movies}
    if not features:
        return MovieLens(ratings, titles)
    users = None
    if known.users_file:
        with open_file(known.users_file) as file:
            users = _parse_users(file.read(), known)
    return MovieLens(ratings, titles, users, _features_of(movies))


def _find_files(known: Version, version: str, data_dir: pathlib.Path):
    """Returns a function that opens a file of this name."""
    if data_dir.is_file():
        _check_is_archive(data_dir)
        return open_archive(data_dir, known, version)
    for folder in (data_dir, data_dir / known.folder):
        if (folder / known.ratings_file).is_file():
            return lambda name: _open_file(folder / name, known.most_bytes)
    archive = data_dir / f"{known.folder}.zip"
    if archive.is_file():
        return open_archive(archive, known, version)
    raise FileNotFoundError(
        f"MovieLens {version} needs the file {known.ratings_file}. Received: "
        f"data_dir={str(data_dir)!r}, where there is neither this file, nor "
        f"a folder {known.folder}, nor an archive {known.folder}.zip. {REMEDY}"
    )


def _check_is_archive(path: pathlib.Path) -> None:
    if path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
        return
    raise ValueError(
        "`data_dir` must be a folder of MovieLens' files, or their archive "
        f"(`.zip`). Received: the file {str(path)!r}. For interactions of your "
        "own use `RetrievalDataset.from_csv(...)`, or `--interactions FILE` on "
        "the command line."
    )


def _open_file(path: pathlib.Path, most: int) -> IO[bytes]:
    if not path.is_file():
        raise FileNotFoundError(
            f"The file {path.name} is missing in {str(path.parent)!r}. Unpack "
            "the archive of GroupLens once more."
        )
    check_size(path.name, path.stat().st_size, most)
    return open(path, "rb")


_RATING_NAMES = ("userId", "movieId", "rating", "timestamp")
_MOVIE_NAMES = ("movieId", "title")


def _read_ratings(file: IO[bytes], known: Version, version: str) -> RawRatings:
    from keras_dp_retrieval.data.readers import csv_files, csv_pieces

    where = f"{known.folder}/{known.ratings_file}"
    separator, names = known.separator, list(_RATING_NAMES)
    if len(separator) > 1:  # Arrow takes one character.
        pieces = csv_pieces.Pieces(
            file, where, long_separator=separator.encode()
        )
        separator = "\t"
    else:
        pieces = csv_pieces.Pieces(file, where)
    if known.has_header:
        first = pieces.first_line()
        names = _names_in(first)
        _column_indices(first, _RATING_NAMES, where)
    try:
        wanted = dict(zip(COLUMNS, _RATING_NAMES, strict=False))
        columns = csv_files.Table(wanted, names, separator).read(pieces)
        for key in ("user_ids", "candidate_ids", "timestamps"):
            _check_whole(wanted[key], columns[key])
    except ValueError as error:
        raise ValueError(
            f"{where} must have four columns: user, movie, rating and time. "
            f"Received: {error} Is the file damaged, or of another version?"
        ) from error
    num = len(columns["user_ids"])
    if not num:
        raise ValueError(f"{where} must hold ratings. Received: an empty file.")
    if num != known.num_ratings and not known.changes:
        raise ValueError(
            f"{where} must hold the {known.num_ratings:,} ratings of "
            f"MovieLens {version}. Received: {num:,}. Is the file "
            "damaged, or of another version?"
        )
    return RawRatings(**columns, name=where)


def _check_whole(name: str, column) -> None:
    """Raises a ValueError unless a column came as whole numbers."""
    if isinstance(column, np.ndarray) and column.dtype.kind == "i":
        return
    values = column.tolist() if hasattr(column, "tolist") else None
    for row, value in enumerate(values or column.to_pylist()):
        if not _is_whole(str(value)):
            raise ValueError(
                f"The column {name!r} must hold whole numbers. Received: "
                f"{value!r:.40} in row {row}."
            )


def _is_whole(text: str) -> bool:
    return (
        re.fullmatch(r"-?\d+", text, re.ASCII) is not None
        and str(int(text)) == text
        and -(2**63) <= int(text) < 2**63
    )


def _names_in(first: str) -> list[str]:
    return [name.strip().strip('"') for name in first.split(",")]


def _column_indices(first: str, names: Sequence[str], where: str) -> list[int]:
    """Returns the indices of the columns, by the first line of the file."""
    header = _names_in(first[:1000])
    if any(header.count(name) != 1 for name in names):
        raise ValueError(
            f"The first line of {where} must name the columns "
            f"{', '.join(names)}, each once. Received: {first[:80]!r}. Is the "
            "file damaged, or of another version?"
        )
    return [header.index(name) for name in names]


def _parse_movies(text: bytes, known: Version) -> list[tuple]:
    """`(id, title, names of genres)` of each movie, an id once."""
    where = f"{known.folder}/{known.movies_file}"
    number, title, genres = 0, 1, 2
    if known.has_header:
        first = text.partition(b"\n")[0].decode("utf-8-sig", "replace")
        number, title = _column_indices(first, _MOVIE_NAMES, where)
        header = _names_in(first)
        genres = header.index("genres") if "genres" in header else len(header)
    try:
        movies = {
            int(row[number]): (row[title], _genres(row, genres, known))
            for row in _rows(text, known)
            if row
        }
    except (ValueError, IndexError, csv.Error) as error:
        raise ValueError(
            f"{where} must hold an id and a title in each line. Received: "
            f"{error}. Is the file damaged?"
        ) from error
    return [(number, *rest) for number, rest in movies.items()]


def _rows(text: bytes, known: Version) -> Iterable[list[str]]:
    lines = text.decode(known.encoding).splitlines()
    if known.has_header:
        return csv.reader(lines[1:])
    separator = "|" if known.folder == "ml-100k" else known.separator
    return (line.split(separator) for line in lines)


def _genres(row: list[str], index: int, known: Version) -> list[str]:
    if known.folder == "ml-100k":
        flags = row[5:]
        return [
            name
            for name, flag in zip(GENRES_OF_100K, flags, strict=False)
            if flag.strip() == "1"
        ]
    return row[index].split("|") if index < len(row) else []


def _parse_users(text: bytes, known: Version) -> FeatureTable:
    where = f"{known.folder}/{known.users_file}"
    try:
        rows = [row for row in _rows(text, known) if len(row) > 1]
        if known.folder == "ml-100k":
            ids, ages, genders, jobs, zip_codes = zip(*rows, strict=True)
        else:
            ids, genders, ages, numbers, zip_codes = zip(*rows, strict=True)
            jobs = tuple(OCCUPATIONS_OF_1M[int(number)] for number in numbers)
        return user_features(
            [int(one) for one in ids],
            [float(one) for one in ages],
            genders,
            jobs,
            zip_codes,
        )
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"{where} must hold an id, age, gender, occupation and zip code in "
            f"each line. Received: {error}. Is the file damaged?"
        ) from error


def _features_of(movies: Sequence[tuple]) -> FeatureTable:
    return movie_features(*zip(*movies, strict=True))
