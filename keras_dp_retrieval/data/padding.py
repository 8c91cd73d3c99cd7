"""What fills up arrays of a fixed shape, and where it stands in them."""

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
