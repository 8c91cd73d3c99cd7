"""Lists of different lengths as arrays of one shape: padding and masks."""

from collections.abc import Sequence

import numpy as np

PADDING = -1  # Pads lists of rows: no row is negative.


def pad_indices(lengths, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the entries of lists of different lengths stand in one array.

    Args:
        lengths: `(n,)` int. Entries of each list, at most `width`.
        width: int. Entries of each list after padding.

    Returns:
        `(indices, mask)`, both `(n, width)`: the index into its list of each
        entry, and whether it is one. Where it is padding, the mask is False
        and the index 0, the list's first entry.
    """
    indices = np.arange(width)
    mask = indices < np.asarray(lengths)[:, None]
    return np.where(mask, indices, 0), mask


def refuse_padding_ids(name: str, ids: np.ndarray) -> None:
    """Raises a ValueError if a candidate has the id that pads lists."""
    padding = "" if ids.dtype.kind == "U" else PADDING
    if (ids == padding).any():
        row = int(np.argmax(ids == padding))
        raise ValueError(
            f"`{name}` must not be {padding!r}, which fills up lists that are "
            f"shorter than `k`. Received: {padding!r} in row {row}. Leave it "
            "out if it stands for a missing id, or give the candidate another."
        )


def pad_lists(lists: Sequence, width: int) -> np.ndarray:
    """Lists of rows as one array, padded with -1 at the end.

    Args:
        lists: int arrays `(length,)`.
        width: int. At least the length of the longest list.

    Returns:
        int32 `(num_lists, width)`.
    """
    padded = np.full((len(lists), width), PADDING, "int32")
    for row, values in zip(padded, lists, strict=True):
        row[: len(values)] = values
    return padded


def next_power_of_two(number: int) -> int:
    """The smallest power of two that is not less than `number`; 1 for 0.

    Each new shape of an array costs a compilation, so widths are rounded up to
    these, of which there are few.
    """
    return 1 << max(number - 1, 0).bit_length()


def in_few_shapes(rows, fill=0) -> np.ndarray:
    """Rows `(n, ...)`, with more of `fill` to a power of two of them."""
    more = next_power_of_two(len(rows)) - len(rows)
    missing = ((0, more),) + ((0, 0),) * (rows.ndim - 1)
    return np.pad(rows, missing, constant_values=fill)


def next_of_few_sizes(number: int) -> int:
    """The smallest of a few sizes that is not less than `number`.

    There are eight sizes from one power of two to the next: a new one costs a
    compilation, and JAX keeps what it compiled. At most an eighth is padding.
    """
    step = max(next_power_of_two(number) // 16, 1)
    return -(-number // step) * step
