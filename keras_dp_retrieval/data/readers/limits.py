"""What a file may do: how much it may unpack to, and that it may not change."""

import os

# Interactions shrink to a third or a tenth. What grows more than this, beyond
# a size that does no harm, was made to fill the memory.
MOST_GROWTH = 200
HARMLESS_SIZE = 2**26


def most_unpacked(packed: int) -> int:
    """To how many bytes a file of so many bytes may unpack."""
    return max(HARMLESS_SIZE, MOST_GROWTH * packed)


def state_of(path) -> tuple[int, int]:
    """The size of a file and when it was changed, in nanoseconds."""
    state = os.stat(path)
    return state.st_size, state.st_mtime_ns


def file_changed(what: str) -> ValueError:
    """Returns an error on a file whose state is another than it was."""
    return ValueError(
        f"{what} must not change while it is read. Received: a file whose "
        "size or time of change is not what it was at the beginning. Read it "
        "once it is complete."
    )
