"""The arguments of a streamed data set: which ones go together."""

from collections.abc import Mapping

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.streaming.not_in_memory import (
    IN_MEMORY,
    needs_memory,
)


def without_unstreamed(options: Mapping) -> dict:
    """Returns those arguments of `from_parquet` that a streamed one takes.

    Args:
        options: Its arguments, but for the path.

    Raises:
        ValueError: If one of them needs all interactions in memory.
    """
    options = dict(options)
    split = options.pop("split", "by_time")
    if split != "by_time":
        raise ValueError(
            "A streamed data set is split at a moment in time, "
            f"`split='by_time'`. Received: split={split!r}. {IN_MEMORY}"
        )
    repeated = options.pop("repeated", "keep")
    if repeated != "keep":
        raise needs_memory(f"`repeated={repeated!r}`")
    for name in ("test", "validation"):
        if options.pop(name, None) is not None:
            raise ValueError(
                "The parts of a streamed data set are found in its files. "
                f"Received: `{name}`. Say when it begins: `{name}_from=...`."
            )
    return options


def refuse_without_times(
    timestamp_column: str | None, *held_out, max_history: int | None
) -> None:
    """Raises a ValueError if time stamps are needed and there are none.

    Args:
        timestamp_column: Optional str.
        *held_out: The arguments that hold something out, if they are set.
        max_history: Optional int.
    """
    if timestamp_column is not None:
        return
    if any(one is not None and one != 0 for one in held_out):
        raise ValueError(
            "A streamed data set is split at a moment in time. Received: "
            "no time stamps. Name their column with "
            "`timestamp_column=...`, or learn from all interactions with "
            "`test_fraction=0, validation_fraction=0`."
        )
    if max_history is not None:
        raise ValueError(
            "`max_history` needs time stamps, as a history is what a user did "
            f"before. Received: max_history={max_history} and none. Name "
            "their column with `timestamp_column=...`."
        )


def max_history(given) -> int | None:
    """The length of the histories that is given, or None."""
    if given is None:
        return None
    return _checks.positive_int("max_history", given)
