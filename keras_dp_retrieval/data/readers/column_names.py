"""Which column of a file or frame is which."""

from collections.abc import Mapping, Sequence


def check_names(wanted: Mapping[str, str], there: Sequence, what: str) -> None:
    """Raises a ValueError unless each column that is wanted is there once.

    Args:
        wanted: What is wanted (`"user_ids"`, ...) to the column's name.
        there: The names of all columns.
        what: str. How the error calls where they are.
    """
    there = list(there)
    missing = [name for name in wanted.values() if name not in there]
    if missing:
        raise ValueError(
            f"{what} must have the columns {list(wanted.values())}. Missing: "
            f"{missing}. There are: {there}. Name them with `user_column=...`, "
            "`candidate_column=...`, `rating_column=...` and "
            "`timestamp_column=...`."
        )
    twice = [name for name in wanted.values() if there.count(name) > 1]
    if twice:
        raise ValueError(
            f"{what} must have each column once. Received more than once: "
            f"{twice}."
        )
