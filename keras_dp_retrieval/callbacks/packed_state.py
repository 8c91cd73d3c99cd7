"""Nested state as JSON and arrays, and back: no pickle, nothing executed."""

from typing import Any

import numpy as np

# What stands in the JSON for what JSON does not have.
_ARRAY, _SCALAR, _TUPLE, _DICT = (
    "__array__",
    "__scalar__",
    "__tuple__",
    "__dict__",
)


def pack(state, arrays: dict, prefix: str):
    """Returns `state` as JSON; its arrays are added to `arrays`.

    Args:
        state: None, a bool, number, str, array or tensor, or nested lists,
            tuples and dicts of those.
        arrays: dict from names to NumPy arrays, which is added to.
        prefix: str. What the names of the arrays begin with.

    Raises:
        TypeError: If there is anything else in it.
    """
    if state is None or type(state) in (bool, int, float, str):
        return state
    if isinstance(state, np.generic):
        return {_SCALAR: [str(state.dtype), state.item()]}
    if isinstance(state, (list, tuple)):
        packed = [pack(one, arrays, prefix) for one in state]
        return packed if isinstance(state, list) else {_TUPLE: packed}
    if isinstance(state, dict):
        pairs = [
            [pack(key, arrays, prefix), pack(value, arrays, prefix)]
            for key, value in state.items()
        ]
        return {_DICT: pairs}
    if not hasattr(state, "__array__"):
        raise TypeError(
            "State must be numbers, texts and arrays, in lists, tuples and "
            f"dicts. Received: {state!r:.80} of type {type(state).__name__}."
        )
    name = f"{prefix}{len(arrays)}"
    # A copy: state such as a list of best weights may change later.
    arrays[name] = np.array(state)
    return {_ARRAY: name}


def unpack(packed, arrays) -> Any:
    """Returns the state that `pack` was given.

    Args:
        packed: What `pack` returned.
        arrays: The arrays by name.
    """
    if isinstance(packed, list):
        return [unpack(one, arrays) for one in packed]
    if not isinstance(packed, dict):
        return packed
    ((kind, value),) = packed.items()
    if kind == _ARRAY:
        return np.array(arrays[value])
    if kind == _SCALAR:
        dtype, number = value
        return np.dtype(dtype).type(number)
    if kind == _TUPLE:
        return tuple(unpack(one, arrays) for one in value)
    return {unpack(k, arrays): unpack(v, arrays) for k, v in value}
