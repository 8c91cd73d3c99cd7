"""What MovieLens tells of users and movies, the same from every source."""

import re
from collections.abc import Sequence

import numpy as np

from keras_dp_retrieval.data.features import Features
from keras_dp_retrieval.data.features.feature_table import FeatureTable

# In the order of the flags in `u.item`.
GENRES_OF_100K = (
    *("Unknown", "Action", "Adventure", "Animation", "Children", "Comedy"),
    *("Crime", "Documentary", "Drama", "Fantasy", "Film-Noir", "Horror"),
    *("Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)

# GroupLens writes some in several ways, and has two names for none.
_GENRES = {
    "Children's": "Children",
    "unknown": None,
    "Unknown": None,
    "(no genres listed)": None,
}

# In the order of the numbers in `users.dat`.
OCCUPATIONS_OF_1M = (
    *("other", "academic", "artist", "clerical", "student", "customer service"),
    *("doctor", "executive", "farmer", "homemaker", "K-12 student", "lawyer"),
    *("programmer", "retired", "sales", "scientist", "self-employed"),
    *("engineer", "craftsman", "unemployed", "writer"),
)


def movie_features(
    ids: Sequence[int], titles: Sequence[str], genres: Sequence[Sequence[str]]
) -> FeatureTable:
    """Returns the features of movies: `genres`, `year` and `title`.

    Args:
        ids: `(n,)`.
        titles: `(n,)`, such as `"Toy Story (1995)"`: the year becomes a number
            and the rest text.
        genres: `(n,)`, the names of each movie's.
    """
    parsed = [_title_and_year(title) for title in titles]
    columns = {
        "movie_id": np.asarray(ids, np.int64),
        "genres": [_known_genres(names) for names in genres],
        "year": [year for _, year in parsed],
        "title": [title for title, _ in parsed],
    }
    kinds = {"genres": "multi_label", "year": "numeric", "title": "text"}
    return Features(columns, id_column="movie_id", kinds=kinds).read(
        "candidate"
    )


def user_features(
    ids: Sequence[int],
    ages: Sequence[float],
    genders: Sequence[str],
    occupations: Sequence[str],
    zip_codes: Sequence[str],
) -> FeatureTable:
    """Returns the features of users: `age`, `gender`, `occupation`, `region`.

    Args:
        ids: `(n,)`.
        ages: `(n,)`, in years.
        genders: `(n,)`, `"F"` or `"M"`.
        occupations: `(n,)`, names.
        zip_codes: `(n,)`. The first digit is the region of the United States;
            codes of other countries are the region `"other"`.
    """
    columns = {
        "user_id": np.asarray(ids, np.int64),
        "age": np.asarray(ages, np.float64),
        "gender": list(genders),
        "occupation": list(occupations),
        "region": [
            code[0] if re.match(r"\d{5}", code) else "other"
            for code in zip_codes
        ],
    }
    kinds = dict.fromkeys(("gender", "occupation", "region"), "categorical")
    return Features(
        columns, id_column="user_id", kinds={**kinds, "age": "numeric"}
    ).read("user")


def _title_and_year(title: str) -> tuple[str, float | None]:
    found = re.fullmatch(r"(.*?)\s*\((\d{4})\)\s*", title, re.DOTALL)
    return (found[1], float(found[2])) if found else (title, None)


def _known_genres(names: Sequence[str]) -> list[str]:
    known = [_GENRES.get(name, name) for name in names]
    return [name for name in known if name]
