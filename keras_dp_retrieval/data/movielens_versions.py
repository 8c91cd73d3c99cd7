"""What is known of each version of MovieLens, and where it can be read from."""

import dataclasses
import os
import pathlib

from keras_dp_retrieval.data.features.feature_table import FeatureTable
from keras_dp_retrieval.data.raw_data import RawRatings

SOURCES = ("tfds", "files", "synthetic")


@dataclasses.dataclass(frozen=True)
class Version:
    """What is known of one version of MovieLens.

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
        changes: bool. Whether GroupLens changes this version over time.
        users_file: str. What it says of the users; `""` if nothing.
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
    users_file: str = ""

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
        users_file="u.user",
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
        users_file="users.dat",
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
        user_features: Optional `FeatureTable`.
        candidate_features: Optional `FeatureTable`.
    """

    ratings: RawRatings
    titles: dict[int, str]
    user_features: FeatureTable | None = None
    candidate_features: FeatureTable | None = None


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
