"""What a data set that is not in memory cannot do: errors that say so."""

from typing import Any, NoReturn

IN_MEMORY = (
    "Read the files without `streaming=True`, or a part of them that fits "
    "into memory with `filters=`."
)


class NotInMemory:
    """The methods of a data set that need all interactions at once."""

    def ratings(self, split: str) -> NoReturn:
        """Raises a ValueError; `evaluate` takes `max_users`."""
        raise needs_memory(
            "`ratings`", "`evaluate(..., max_users=...)` looks at some users."
        )

    @property
    def seen(self) -> NoReturn:
        """Raises a ValueError; `recommend` takes what was seen instead."""
        raise needs_memory(
            "`seen`", "`recommend(..., exclude=...)` takes what users saw."
        )

    def seen_before(self, split: str) -> NoReturn:
        """Raises a ValueError; `evaluate` takes `max_users`."""
        raise needs_memory(
            "`seen_before`",
            "`evaluate(..., max_users=...)` looks at some users.",
        )

    @property
    def leakage(self) -> NoReturn:
        """Raises a ValueError."""
        raise needs_memory("`leakage`")

    def describe(self) -> NoReturn:
        """Raises a ValueError."""
        raise needs_memory("`describe`", "`description` has the sizes.")

    def by_user(self, batch_size: int = 64) -> NoReturn:
        """Raises a ValueError."""
        raise needs_memory("`by_user`", "`train` has one interaction a row.")

    def next_items(self, batch_size: int = 1024) -> NoReturn:
        """Raises a ValueError."""
        raise needs_memory("`next_items`", "`train` has one interaction a row.")

    def by_sequence(
        self, batch_size: int = 32, max_length: int = 100
    ) -> NoReturn:
        """Raises a ValueError."""
        raise needs_memory(
            "`by_sequence`", "`train` has one interaction a row."
        )

    def by_interaction(self, batch_size: int | None = None) -> NoReturn:
        """Raises a ValueError."""
        raise ValueError(
            "The batches of a streamed data set have one size, that of "
            "`train`. Received: a call of `by_interaction`. Make the data set "
            "with another `batch_size`."
        )

    def with_validation_in_train(self) -> NoReturn:
        """Raises a ValueError."""
        raise ValueError(
            "A streamed data set is divided when it is made. Received: a call "
            "of `with_validation_in_train`. Make it with "
            "`validation_fraction=0`."
        )


def needs_memory(what: str, instead: str = "") -> ValueError:
    """Returns the error of whatever needs all interactions at once.

    Args:
        what: str. What needs them.
        instead: str. What to use in its place, a sentence.
    """
    return ValueError(
        f"{what} needs all interactions in memory. Received: a streamed data "
        f"set. {f'{instead} ' if instead else ''}{IN_MEMORY}"
    )


def refuse_streamed(what: str, data: Any) -> None:
    """Raises a ValueError if a data set is streamed.

    Args:
        what: str. What it is wanted for.
        data: A data set, or anything else.
    """
    if isinstance(data, NotInMemory):
        raise needs_memory(what)
