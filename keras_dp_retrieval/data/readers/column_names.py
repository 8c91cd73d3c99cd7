"""Which column of a file or frame is which."""

import re
from collections.abc import Iterable, Mapping, Sequence

from keras_dp_retrieval.data.raw_data import COLUMNS

# What to call a column by to have it found.
AUTO = "auto"

# The first is what the column is if it is there; else the one that is called
# one of the others, written in any way: `itemId`, `ITEM_ID`, `item id`.
_KNOWN = {
    "user_ids": (
        *("user_id", "userid", "user", "uid", "customerid", "customer"),
        *("visitorid", "memberid", "reviewerid", "accountid", "playerid"),
        *("visitor", "member", "reviewer", "account", "player", "reader"),
    ),
    "candidate_ids": (
        *("candidate_id", "candidateid", "candidate", "itemid", "item"),
        *("movieid", "movie", "productid", "product", "articleid", "bookid"),
        *("songid", "trackid", "videoid", "gameid", "contentid", "asin"),
    ),
    "ratings": ("rating", "ratings", "userrating", "stars", "score"),
    "timestamps": (
        *("timestamp", "timestamps", "time", "datetime", "date", "ts", "when"),
        *(
            "unixreviewtime",
            "unixtime",
            "eventtime",
            "eventdate",
            "eventtimestamp",
        ),
        *("createdat", "orderedat", "purchasedat", "clickedat", "viewedat"),
        *("watchedat", "playedat", "ratedat", "orderdate", "purchasedate"),
    ),
    "weights": ("weight", "weights", "sampleweight"),
    "titles": (
        *("title", "titles", "name", "candidatetitle", "itemtitle", "itemname"),
        *("producttitle", "productname", "movietitle", "booktitle"),
    ),
}
# In a table of users, or of candidates.
_IDS = ("id", "ID")
_KEYWORDS = {
    "user_ids": "user_column",
    "candidate_ids": "candidate_column",
    "ratings": "rating_column",
    "timestamps": "timestamp_column",
    "weights": "weight_column",
    "titles": "title_column",
}
_REMEDY = (
    "Name them with `user_column=...`, `candidate_column=...`, "
    "`rating_column=...`, `timestamp_column=...` and `weight_column=...`."
)


def named_columns(*names) -> dict:
    """Returns which column of a file becomes which column of a data set.

    Args:
        *names: Of the users, candidates, ratings, timestamps and weights.
            `"auto"` stands for a column that is to be found, None for one that
            there is not.

    Raises:
        ValueError: If users or candidates are None.
    """
    columns = dict(zip(COLUMNS, names, strict=True))
    for key in ("user_ids", "candidate_ids"):
        if columns[key] is None:
            raise ValueError(
                f"`{_KEYWORDS[key]}` must name a column. Received: "
                f"{_KEYWORDS[key]}=None."
            )
    return columns


def found_columns(
    columns: Mapping, there: Sequence, what: str
) -> tuple[dict, str]:
    """Returns the name of each column that is wanted, and what was found.

    Args:
        columns: What `named_columns` returned.
        there: The names of all columns that there are.
        what: str. How errors call where they are.

    Returns:
        `(wanted, note)`: what is wanted (`"user_ids"`, ...) to the column's
        name; and a text on those that were found by other names than the
        usual, and on timestamps that were not, or `""`.

    Raises:
        ValueError: If one is missing or there more than once, or if several
            may be meant.
    """
    there = list(there)
    wanted: dict = {}
    notes, notes_on_missing = [], []
    for key, name in columns.items():
        if name is None:
            continue
        if name == AUTO:
            taken = [*columns.values(), *wanted.values()]
            left = [one for one in there if one not in taken]
            name = find_column(key, left, what)
            if name is None and key in ("user_ids", "candidate_ids"):
                name = _KNOWN[key][0]  # Missing, as is said below.
            elif name is None:
                if key == "timestamps" and left:
                    notes_on_missing.append(
                        f"no timestamps found among the other columns, {left}: "
                        f"`{_KEYWORDS[key]}=...` names them"
                    )
                continue
            elif name != _KNOWN[key][0]:
                notes.append(f"{_KEYWORDS[key]}={name!r}")
        wanted[key] = name
    check_names(wanted.values(), there, what)
    found = [f"found {', '.join(notes)}"] if notes else []
    return wanted, "; ".join(found + notes_on_missing)


def find_column(key: str, there: Sequence, what: str):
    """Returns the column that is called as such columns are, or None.

    Args:
        key: str. `"user_ids"` or another of the columns, or `"titles"`.
        there: The names of all columns that there are.
        what: str. How errors call where they are.

    Raises:
        ValueError: If there are several, none of them of the usual name.
    """
    usual, *others = _KNOWN[key]
    if usual in there:
        return usual
    found = [
        name
        for name in dict.fromkeys(there)
        if isinstance(name, str)
        and re.sub("[^a-z0-9]", "", name.lower()) in (*others, usual)
    ]
    if len(found) > 1:
        raise ValueError(
            f"{what} must have one column that can be the {key}. Received "
            f"several: {found}. Name the right one with "
            f"`{_KEYWORDS[key]}=...`."
        )
    return found[0] if found else None


def check_names(
    wanted: Iterable, there: Sequence, what: str, remedy: str = _REMEDY
) -> None:
    """Raises a ValueError unless each column that is wanted is there once.

    Args:
        wanted: The names of the columns that are wanted.
        there: The names of all columns.
        what: str. How the error calls where they are.
        remedy: str. What would work.
    """
    wanted, there = list(wanted), list(there)
    missing = [name for name in wanted if name not in there]
    if missing:
        raise ValueError(
            f"{what} must have the columns {wanted}. Missing: "
            f"{missing}. There are: {there}. {remedy}"
        )
    twice = [name for name in wanted if there.count(name) > 1]
    if twice:
        raise ValueError(
            f"{what} must have each column once. Received more than once: "
            f"{twice}."
        )


def names_ids(side: str, name: str) -> bool:
    """Whether a column of this name holds the ids of the users, say."""
    is_one = find_column(f"{side}_ids", [name], "The table") is not None
    return is_one or name in _IDS


def find_id_column(side: str, name: str, there: Sequence, what: str) -> str:
    """Returns the name of the ids in a table of features.

    Args:
        side: `"user"` or `"candidate"`.
        name: str. As it was given; `"auto"` looks for it.
        there: The names of all columns.
        what: str. How the error calls where they are.

    Raises:
        ValueError: If it is not there once, or not to be found.
    """
    there = list(there)
    if name == AUTO:
        found = find_column(f"{side}_ids", there, what)
        name = found or next((one for one in _IDS if one in there), "")
    if there.count(name) == 1:
        return name
    raise ValueError(
        f"{what} must have one column with the ids of the {side}s. Received: "
        f"{there}. Name it with `kdr.Features(table, id_column=...)`."
    )
