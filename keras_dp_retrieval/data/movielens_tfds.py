"""Reads MovieLens from TensorFlow Datasets."""

import contextlib
import logging
import os
import pathlib
import threading
import urllib.request
import warnings

import numpy as np

from keras_dp_retrieval.data._tensorflow import import_tensorflow
from keras_dp_retrieval.data.movielens_features import (
    movie_features,
    user_features,
)
from keras_dp_retrieval.data.movielens_versions import (
    REMEDY,
    VERSIONS,
    MovieLens,
    check_data_dir,
)
from keras_dp_retrieval.data.raw_data import RawRatings


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


def read_tfds(version: str, data_dir=None, features: bool = False) -> MovieLens:
    """Reads MovieLens from TensorFlow Datasets, which downloads it if need be.

    The order is that of `tfds.load("movielens/<version>-ratings")` where the
    prepared copy is one file, as that of 100k is.

    Args:
        version: str. A key of `VERSIONS`.
        data_dir: Optional path, as for `tfds_is_prepared`.
        features: bool. Whether to read what is known of users and movies.

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
    names = [title.decode() for title in titles]
    known = _read_features(version, data_dir, ids, names) if features else ()
    return MovieLens(
        RawRatings(users, movies, stars, times, name=name),
        dict(zip(ids.tolist(), names, strict=True)),
        *known,
    )


def _read_features(version: str, data_dir, movies, titles) -> tuple:
    """The features of users, or None, and of movies."""
    (genres,) = _read_records(version, data_dir, "movies", ("movie_genres",))
    labels = _builder(version, data_dir, "movies").info.features
    names = labels["movie_genres"].feature.names
    of_movies = movie_features(
        movies,
        titles,
        [[names[one] for one in row if one >= 0] for row in genres],
    )
    if not VERSIONS[version].users_file:
        return None, of_movies
    age = "raw_user_age" if version == "100k" else "bucketized_user_age"
    users, ages, is_male, jobs, zip_codes = _read_records(
        version, data_dir, "ratings", ("user_id", age, *_USER_COLUMNS)
    )
    _, first = np.unique(users, return_index=True)
    return (
        user_features(
            users[first].tolist(),
            ages[first].tolist(),
            np.where(is_male[first], "M", "F").tolist(),
            [job.decode() for job in jobs[first]],
            [code.decode() for code in zip_codes[first]],
        ),
        of_movies,
    )


# There are 21.
_MOST_GENRES = 32
_RATING_COLUMNS = ("user_id", "movie_id", "user_rating", "timestamp")
_MOVIE_COLUMNS = ("movie_id", "movie_title")
_USER_COLUMNS = ("user_gender", "user_occupation_text", "user_zip_code")


def _read_records(version: str, data_dir, part: str, names) -> list[np.ndarray]:
    """Returns columns of a prepared data set.

    TFDS decodes one example at a time, all columns of it: 4 s for 100,000
    ratings. Only these columns, thousands at a time, take a fraction of that.
    """
    tf = import_tensorflow()
    builder = _builder(version, data_dir, part)
    types = {
        "timestamp": tf.int64,
        "user_gender": tf.int64,
        "user_rating": tf.float32,
        "raw_user_age": tf.float32,
        "bucketized_user_age": tf.float32,
    }
    wanted = {
        name: tf.io.VarLenFeature(tf.int64)
        if name == "movie_genres"
        else tf.io.FixedLenFeature((), types.get(name, tf.string))
        for name in names
    }

    def parse(records):
        parsed = tf.io.parse_example(records, wanted)
        for name in ("user_id", "movie_id"):
            if name in parsed:
                parsed[name] = tf.strings.to_number(parsed[name], tf.int64)
        if "movie_genres" in parsed:  # -1 where a movie has no more.
            genres = tf.sparse.to_dense(parsed["movie_genres"], -1)
            missing = [[0, 0], [0, _MOST_GENRES - tf.shape(genres)[1]]]
            parsed["movie_genres"] = tf.pad(genres, missing, constant_values=-1)
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
