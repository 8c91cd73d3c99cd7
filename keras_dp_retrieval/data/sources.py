"""Reads MovieLens: three sources, one result."""

import contextlib
import csv
import dataclasses
import io
import logging
import os
import pathlib
import stat
import struct
import threading
import urllib.request
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from keras_dp_retrieval.data._tensorflow import import_tensorflow
from keras_dp_retrieval.data.raw_data import RawRatings

SOURCES = ("tfds", "files", "synthetic")


@dataclasses.dataclass(frozen=True)
class Version:
    """What is known of one edition of MovieLens.

    Args:
        folder: str. What GroupLens calls the folder and the archive.
        ratings_file: str.
        movies_file: str.
        separator: str. Between the columns of both files.
        encoding: str. Of the movies file.
        lowest_rating: float. Half a star where there are half stars.
        num_users: int. Users with ratings.
        num_movies: int. Movies with ratings.
        num_ratings: int.
        changes: bool. Whether GroupLens changes this edition over time.
    """

    folder: str
    ratings_file: str
    movies_file: str
    separator: str
    encoding: str
    lowest_rating: float
    num_users: int
    num_movies: int
    num_ratings: int
    changes: bool = False

    @property
    def rating_range(self) -> tuple[float, float]:
        return (self.lowest_rating, 5.0)

    @property
    def has_header(self) -> bool:
        """Whether the first line of its files names the columns."""
        return self.separator == ","

    @property
    def most_bytes(self) -> int:
        """More than one of its files can have; a rating takes some 25."""
        return max(2**26, 100 * self.num_ratings)


def _newer(folder, num_users, num_movies, num_ratings, changes=False):
    return Version(
        folder=folder,
        ratings_file="ratings.csv",
        movies_file="movies.csv",
        separator=",",
        encoding="utf-8",
        lowest_rating=0.5,
        num_users=num_users,
        num_movies=num_movies,
        num_ratings=num_ratings,
        changes=changes,
    )


# The numbers of users, movies and ratings are from the README of each archive;
# movies without a rating are not counted.
VERSIONS = {
    "100k": Version(
        folder="ml-100k",
        ratings_file="u.data",
        movies_file="u.item",
        separator="\t",
        encoding="latin-1",
        lowest_rating=1.0,
        num_users=943,
        num_movies=1_682,
        num_ratings=100_000,
    ),
    "1m": Version(
        folder="ml-1m",
        ratings_file="ratings.dat",
        movies_file="movies.dat",
        separator="::",
        encoding="latin-1",
        lowest_rating=1.0,
        num_users=6_040,
        num_movies=3_706,
        num_ratings=1_000_209,
    ),
    "20m": _newer("ml-20m", 138_493, 26_744, 20_000_263),
    "25m": _newer("ml-25m", 162_541, 59_047, 25_000_095),
    "latest-small": _newer("ml-latest-small", 610, 9_724, 100_836, True),
}

REMEDY = (
    "Pass `data_dir=...` with a prepared copy, or `source='files'` with an "
    "archive from https://grouplens.org/datasets/movielens/, or "
    "`source='synthetic'`, which needs no data."
)


@dataclasses.dataclass(frozen=True, eq=False)
class MovieLens:
    """What every source returns.

    Args:
        ratings: `RawRatings`, in the order of the source.
        titles: dict. Raw id of a movie to its title; movies that nobody has
            rated can be among them.
    """

    ratings: RawRatings
    titles: dict[int, str]


def check_data_dir(source: str, data_dir: str | None) -> None:
    """Raises an error if this source cannot be read from this place."""
    if source == "files" and data_dir is None:
        raise ValueError(
            "`source='files'` needs `data_dir=...`: the unpacked folder or "
            "the archive of GroupLens. Received: data_dir=None. " + REMEDY
        )
    if source == "synthetic" and data_dir is not None:
        raise ValueError(
            "`source='synthetic'` reads nothing. Received: data_dir="
            f"{data_dir!r}. Leave it out, or use another source."
        )
    if data_dir is not None and not pathlib.Path(data_dir).exists():
        raise FileNotFoundError(
            f"`data_dir` must exist. Received: data_dir={data_dir!r}. {REMEDY}"
        )
    if source == "tfds" and data_dir is not None and os.path.isfile(data_dir):
        raise ValueError(
            "`data_dir` must be a folder for `source='tfds'`. Received: the "
            f"file {data_dir!r}. Archives are read by `source='files'`."
        )


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
        return _open_archive(data_dir, known, version)
    for folder in (data_dir, data_dir / known.folder):
        if (folder / known.ratings_file).is_file():
            return lambda name: _read_bytes(folder / name, known.most_bytes)
    archive = data_dir / f"{known.folder}.zip"
    if archive.is_file():
        return _open_archive(archive, known, version)
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
    _check_size(path.name, path.stat().st_size, most)
    return path.read_bytes()


def _check_size(name: str, size: int, most: int) -> None:
    if size > most:
        raise ValueError(
            f"The file {name} must have at most {most:,} bytes, several times "
            f"what GroupLens has. Received: {size:,}. Is it another file?"
        )


def _open_archive(path: pathlib.Path, known: Version, version: str):
    """Returns a function from a file's name to its bytes, checked."""
    with _clear_zip_errors(path), zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
    for member in members.values():
        _check_member(member, path)

    def read(name: str) -> bytes:
        places = [name, f"{known.folder}/{name}"]
        found = [members[place] for place in places if place in members]
        if not found:
            names = list(members)
            raise ValueError(
                f"MovieLens {version} needs the file {known.folder}/{name}. "
                f"Received: the archive {str(path)!r}, which holds "
                f"{', '.join(names[:5]) or 'nothing'}"
                f"{', ...' if len(names) > 5 else ''}. Is it another version?"
            )
        _check_packing(found[0], path)
        # What it unpacks to is never more than what it says it is.
        _check_size(found[0].filename, found[0].file_size, known.most_bytes)
        with _clear_zip_errors(path), zipfile.ZipFile(path) as archive:
            return archive.read(found[0])  # Also compares the checksum.

    return read


@contextlib.contextmanager
def _clear_zip_errors(path: pathlib.Path):
    try:
        yield
    except (
        zipfile.BadZipFile,
        EOFError,
        zlib.error,
        struct.error,
        UnicodeDecodeError,
        OverflowError,
        RuntimeError,  # Encrypted, or packed in a way that is not known.
    ) as error:
        raise ValueError(
            f"The archive {str(path)!r} is damaged or incomplete: {error}. "
            "Download it again."
        ) from error


def _check_packing(member: zipfile.ZipInfo, path: pathlib.Path) -> None:
    # Python unpacks the other methods without a bound on the memory.
    known = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    is_encrypted = member.flag_bits & 1
    if is_encrypted or member.compress_type not in known:
        names = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "LZMA"}
        method = names.get(member.compress_type, f"{member.compress_type}")
        what = "encrypted" if is_encrypted else f"packed by method {method}"
        raise ValueError(
            f"The archive {str(path)!r} must be one of GroupLens, packed with "
            f"deflate and not encrypted. Received: {member.filename!r}, which "
            f"is {what}. Unpack it, and name the folder instead."
        )


def _check_member(member: zipfile.ZipInfo, path: pathlib.Path) -> None:
    """Refuses entries that would land outside the folder of an archive.

    We never unpack to disk. But an archive that holds such a name is not from
    GroupLens, and should not be passed on as if it were.
    """
    # `orig_filename`: zipfile has already made the other one harmless.
    name = member.orig_filename.replace("\\", "/")
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    has_drive = bool(pathlib.PureWindowsPath(name).drive)
    if name.startswith("/") or has_drive or ".." in name.split("/") or is_link:
        what = "a link" if is_link else "a path out of its folder"
        raise ValueError(
            f"The archive {str(path)!r} must be one of GroupLens. Received: "
            f"an archive with {what}, {member.orig_filename!r}. Nothing was "
            "read from it."
        )


_RATING_NAMES = ("userId", "movieId", "rating", "timestamp")
_MOVIE_NAMES = ("movieId", "title")


def _parse_ratings(text: bytes, known: Version, version: str) -> RawRatings:
    where = f"{known.folder}/{known.ratings_file}"
    separator = known.separator.encode()
    if len(separator) > 1:  # NumPy takes one character.
        text, separator = text.replace(separator, b"\t"), b"\t"
    if not text.strip():
        raise ValueError(f"{where} must hold ratings. Received: an empty file.")
    places: Sequence[int] = range(4)
    if known.has_header:
        places = _places(text, _RATING_NAMES, where)
    dtypes = ("i8", "i8", "f4", "i8")
    try:
        table = np.loadtxt(
            io.BytesIO(text),
            dtype=list(zip(_RATING_NAMES, dtypes, strict=True)),
            delimiter=separator.decode(),
            skiprows=1 if known.has_header else 0,
            # Without `usecols`, a column too many is an error.
            usecols=places if known.has_header else None,
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


def _places(text: bytes, names: Sequence[str], where: str) -> list[int]:
    """Where the columns stand, by the first line of the file."""
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
        number, title = _places(text, _MOVIE_NAMES, where)
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


def tfds_is_prepared(version: str, data_dir=None) -> bool:
    """Whether `source="tfds"` will find MovieLens without a network.

    Args:
        version: str. A key of `VERSIONS`.
        data_dir: Optional path. TFDS' own folder by default, which is
            `$TFDS_DATA_DIR` or `~/tensorflow_datasets`.
    """
    root = tfds_folder(version, data_dir)
    return all(_prepared(root, version, part) for part in ("ratings", "movies"))


def tfds_folder(version: str, data_dir=None) -> pathlib.Path:
    """Returns the folder that TFDS is to read from, or to prepare."""
    if data_dir is None:
        home = pathlib.Path.home() / "tensorflow_datasets"
        return pathlib.Path(os.environ.get("TFDS_DATA_DIR") or home)
    data_dir = pathlib.Path(data_dir)
    inside = data_dir / "tfds"
    # One folder can so hold the copy of TFDS beside the files of GroupLens.
    return inside if _prepared(inside, version, "ratings") else data_dir


def _prepared(root: pathlib.Path, version: str, part: str) -> bool:
    # While TFDS is still writing, the version's folder has another name.
    folder = root / "movielens" / f"{version}-{part}"
    return any(folder.glob("[0-9]*/dataset_info.json"))


def read_tfds(version: str, data_dir=None) -> MovieLens:
    """Reads MovieLens from TensorFlow Datasets, which downloads it if need be.

    The order is that of `tfds.load("movielens/<version>-ratings")` where the
    prepared copy is one file, as that of 100k is.

    Args:
        version: str. A key of `VERSIONS`.
        data_dir: Optional path, as for `tfds_is_prepared`.

    Raises:
        FileNotFoundError: If `data_dir` is given and does not exist.
        RuntimeError: If MovieLens is not prepared and cannot be downloaded.
    """
    check_data_dir("tfds", None if data_dir is None else str(data_dir))
    if not tfds_is_prepared(version, data_dir):
        _download(version, data_dir)
    users, movies, stars, times = _read_records(
        version, data_dir, "ratings", _RATING_COLUMNS
    )
    ids, titles = _read_records(version, data_dir, "movies", _MOVIE_COLUMNS)
    name = f"movielens/{version}-ratings"
    return MovieLens(
        RawRatings(users, movies, stars, times, name),
        {
            int(number): title.decode()
            for number, title in zip(ids, titles, strict=True)
        },
    )


_RATING_COLUMNS = ("user_id", "movie_id", "user_rating", "timestamp")
_MOVIE_COLUMNS = ("movie_id", "movie_title")


def _read_records(version: str, data_dir, part: str, names) -> list[np.ndarray]:
    """Returns columns of a prepared data set.

    TFDS decodes one example at a time, all columns of it: 4 s for 100,000
    ratings. Only these columns, thousands at a time, take a fraction of that.
    """
    tf = import_tensorflow()
    builder = _builder(version, data_dir, part)
    numbers = {"timestamp": tf.int64, "user_rating": tf.float32}
    wanted = {
        name: tf.io.FixedLenFeature((), numbers.get(name, tf.string))
        for name in names
    }

    def parse(records):
        parsed = tf.io.parse_example(records, wanted)
        for name in ("user_id", "movie_id"):
            if name in parsed:
                parsed[name] = tf.strings.to_number(parsed[name], tf.int64)
        return [parsed[name] for name in names]

    info = builder.info.splits["train"]
    records = tf.data.TFRecordDataset([str(path) for path in info.filepaths])
    try:
        batches = [
            [column.numpy() for column in batch]
            for batch in records.batch(8192).map(parse)
        ]
    except tf.errors.OpError as error:
        raise RuntimeError(
            f"The prepared copy of movielens/{version}-{part} is damaged: "
            f"{error.message[:200]}. Delete {str(builder.data_path)!r} and "
            "prepare it again."
        ) from error
    columns = [np.concatenate(column) for column in zip(*batches, strict=True)]
    if not columns or len(columns[0]) != info.num_examples:
        raise RuntimeError(
            f"The prepared copy of movielens/{version}-{part} must have "
            f"{info.num_examples:,} rows. Received: "
            f"{len(columns[0]) if columns else 0:,}. Delete "
            f"{str(builder.data_path)!r} and prepare it again."
        )
    return columns


def _builder(version: str, data_dir, part: str):
    name = f"movielens/{version}-{part}"
    folder = str(tfds_folder(version, data_dir))
    try:
        with _quiet_tfds() as tfds:
            return tfds.builder(name, data_dir=folder)
    except Exception as error:  # TFDS raises many kinds.
        raise RuntimeError(
            f"The prepared copy of {name} in {folder!r} cannot be read: "
            f"{error!s:.300}. Delete it and prepare it again."
        ) from error


@contextlib.contextmanager
def _quiet_tfds():
    """TFDS warns of its own old names, and draws progress bars."""
    import tensorflow_datasets as tfds

    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield tfds
    finally:
        logger.setLevel(level)


# TFDS would go on trying for minutes.
_PROBE_SECONDS = 10


def _download(version: str, data_dir) -> None:
    archive = VERSIONS[version].folder
    url = f"https://files.grouplens.org/datasets/movielens/{archive}.zip"
    problem = _unreachable(url)
    if problem is None:
        import_tensorflow()  # So that TFDS does not take the GPUs.
        try:
            with _quiet_tfds():
                for part in ("ratings", "movies"):
                    builder = _builder(version, data_dir, part)
                    builder.download_and_prepare()
            return
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
    raise RuntimeError(
        f"MovieLens {version} is not prepared in "
        f"{str(tfds_folder(version, data_dir))!r} and could not be downloaded "
        f"from {url} ({problem[:200]}). {REMEDY}"
    )


def _unreachable(url: str) -> str | None:
    """Returns why the address does not answer soon, or None if it does."""
    outcome = [f"no answer within {_PROBE_SECONDS} seconds"]

    def ask():
        request = urllib.request.Request(url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):
                outcome[0] = ""
        except Exception as error:
            outcome[0] = str(error) or type(error).__name__

    # In a thread, as looking up the name of the host knows no time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return outcome[0] or None
