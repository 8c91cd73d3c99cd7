"""Users at several times: inputs with several lengths of each history."""

import numpy as np
from keras import ops


def has_several_lengths(inputs) -> bool:
    """Whether inputs of the model have `"length"`, `(batch, lengths)`."""
    return (
        isinstance(inputs, dict)
        and "length" in inputs
        and len(inputs["length"].shape) == 2
    )


def with_one_length(inputs):
    """The same as inputs with a single length for each user.

    A user is repeated for each of the lengths: `(batch, lengths)` becomes
    `(batch x lengths,)`. Other inputs are returned as they are.
    """
    if not has_several_lengths(inputs):
        return inputs
    number = inputs["length"].shape[1]
    return {
        key: ops.reshape(value, (-1,))
        if key == "length"
        else ops.repeat(value, number, axis=0)
        for key, value in inputs.items()
    }


def positions_of(lengths, num_columns: int):
    """The last column of each prefix, in the history of the longest.

    Args:
        lengths: int `(batch, lengths)`; 0 for padding.
        num_columns: int. That history's latest items, in as many columns.

    Returns:
        int `(batch, lengths)`, 0 for padding.
    """
    longest = ops.max(lengths, axis=1, keepdims=True)
    first = ops.maximum(longest - num_columns, 0)
    return ops.maximum(lengths - 1 - first, 0)


def check_lengths(lengths, max_length: int) -> None:
    """Raises a ValueError if the lengths of a user are too far apart.

    Args:
        lengths: NumPy int `(batch, lengths)`; 0 for padding.
        max_length: int. That of the tower, which reads so many items.
    """
    longest = lengths.max(axis=1, initial=0)
    shortest = np.where(lengths > 0, lengths, longest[:, None]).min(
        axis=1, initial=np.iinfo(lengths.dtype).max
    )
    apart = int((longest - shortest).max(initial=0))
    if apart >= max_length:
        raise ValueError(
            "The lengths of a user must be less than the tower's "
            f"`max_length` apart, here {max_length}. Received: {apart}. Make "
            f"the examples with `by_sequence(max_length={max_length})`."
        )
