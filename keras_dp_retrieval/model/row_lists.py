"""Lists of rows as arrays of few shapes, as each new one is compiled."""

from collections.abc import Iterator

import numpy as np

from keras_dp_retrieval.data.padding import (
    PADDING,
    next_power_of_two,
    pad_lists,
)


def padded(lists, most=None) -> np.ndarray:
    """int32 `(batch, longest)`, padded with -1.

    `longest` is rounded up to a power of two, or to `most`, so that few shapes
    occur.
    """
    width = next_power_of_two(max(map(len, lists), default=0))
    width = width if most is None else min(width, most)
    return pad_lists(lists, width)


def joined(some, more) -> np.ndarray | None:
    """Two arrays of lists of rows as one; None is no list.

    Args:
        some: Optional int32 `(batch, length)`, padded with -1.
        more: Likewise.
    """
    if some is None or more is None:
        return more if some is None else some
    width = next_power_of_two(some.shape[1] + more.shape[1])
    rows = np.full((len(some), width), PADDING, "int32")
    rows[:, : some.shape[1]] = some
    rows[:, some.shape[1] : some.shape[1] + more.shape[1]] = more
    return rows


def parts_of(lengths, size: int, room: int) -> Iterator[slice]:
    """Divides lists into parts that take little room when they are padded.

    A part is of `size` lists, or of a half, a fourth and so on, so that few
    shapes occur.

    Args:
        lengths: int `(num_lists,)`.
        size: int. The most lists of a part, a power of two.
        room: int. The most entries of a part, padding included, unless it is
            of one list.

    Yields:
        Slices, one at least, also of nothing.
    """
    start = 0
    while start < max(len(lengths), 1):
        num = size
        while num > 1 and _num_padded(lengths[start : start + num]) > room:
            num //= 2
        yield slice(start, start + num)
        start += num


def _num_padded(lengths) -> int:
    return len(lengths) * next_power_of_two(int(max(lengths, default=0)))
