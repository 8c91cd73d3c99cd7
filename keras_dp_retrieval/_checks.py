"""Argument checks whose messages all have one form.

Every message says the rule, what was received, and what would work. Arguments
are checked once, where they come in (constructor, factory, command line); the
code behind does not check them again.
"""

import math
import numbers
import os
import warnings
from collections.abc import Iterable, Mapping

import numpy as np

# The largest signed 32-bit number.
LARGEST_ROW = 2**31 - 1


def positive_int(name: str, value) -> int:
    """Returns `value` as a Python int if it is a whole number of 1 or more.

    NumPy integers and 0-d arrays are whole numbers too: `Embedding` refuses
    them since Keras 3.15 (keras#22718), so counts are converted here.
    """
    number = _whole_number(value)
    if number is None or number < 1:
        raise ValueError(
            f"`{name}` must be a whole number of 1 or more. "
            f"Received: {name}={shown(value)}."
        )
    return number


def former_argument(options: dict, former: str, **present):
    """Takes an argument by its former name out of `options`.

    Args:
        options: dict that has `former`, which is removed.
        former: str. A name that works until version 0.3.
        present: The present name, and its value if `former` is not given:
            another one means that both are.
    """
    ((name, default),) = present.items()
    value = options.pop(former)
    if name in options or default:
        raise ValueError(
            f"`{former}` is the former name of `{name}`: give one of them. "
            f"Received: {former}={value!r} and "
            f"{name}={options.get(name, default)!r}."
        )
    warn_of_former_name(former, name, stacklevel=4)
    return value


def warn_of_former_name(former: str, name: str, stacklevel: int = 3) -> None:
    """Warns who uses a name that is gone from version 0.3 on."""
    warnings.warn(
        f"`{former}` is called `{name}` now. The old name works until version "
        "0.3.",
        FutureWarning,
        stacklevel=stacklevel,
    )


def table_size(name: str, value) -> int:
    """Returns `value` as a Python int if a table can have so many rows.

    Rows are 32-bit numbers on the devices; XLA ends the process over more.
    """
    number = positive_int(name, value)
    if number > LARGEST_ROW:
        raise ValueError(
            f"`{name}` must be at most {LARGEST_ROW:,}, as rows are 32-bit "
            f"numbers. Received: {name}={value!r}."
        )
    return number


def non_negative_int(name: str, value) -> int:
    """Returns `value` as a Python int if it is a whole number of 0 or more."""
    number = _whole_number(value)
    if number is None or number < 0:
        raise ValueError(
            f"`{name}` must be a whole number of 0 or more. "
            f"Received: {name}={shown(value)}."
        )
    return number


def number_between(
    name: str,
    value,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Returns `value` as a float if it is finite and inside the interval.

    Text and truth values are no numbers, whatever Python makes of them.
    """
    try:
        is_text = isinstance(value, (str, bytes, bool, np.bool_))
        number = math.nan if is_text else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    inside = (number > low if open_low else number >= low) and (
        number < high if open_high else number <= high
    )
    if not (math.isfinite(number) and inside):
        interval = f"{'(' if open_low else '['}{low}, {high}"
        interval += ")" if open_high else "]"
        raise ValueError(
            f"`{name}` must be a finite number in {interval}. "
            f"Received: {name}={shown(value)}."
        )
    return number


def numbers_between(name: str, values, low: float, high: float) -> list[float]:
    """Returns `values` as floats if there are any, all inside the interval."""
    found = []
    # An array without dimensions says that it can be iterated over.
    if isinstance(values, Iterable) and getattr(values, "shape", None) != ():
        found = [] if isinstance(values, str) else list(values)
    if not found:
        raise ValueError(
            f"`{name}` must hold at least one number: a list of finite numbers "
            f"in [{low}, {high}]. Received: {name}={values!r}."
        )
    return [number_between(name, value, low, high) for value in found]


def one_of(name: str, value, choices: Iterable):
    """Returns `value` if it is one of `choices`."""
    choices = list(choices)
    if not isinstance(value, (str, numbers.Number)) or value not in choices:
        named = ", ".join(repr(choice) for choice in choices)
        raise ValueError(
            f"`{name}` must be one of {named}. Received: {name}={shown(value)}."
        )
    return value


def is_listed(values) -> bool:
    """Whether `values` is a list, an array or the like: of entries in order.

    Text, dicts, sets and generators are not.
    """
    if isinstance(values, (str, bytes)) or not hasattr(values, "__getitem__"):
        return False
    if isinstance(values, Mapping):
        return False
    shape = getattr(values, "shape", None)
    return hasattr(values, "__len__") if shape is None else len(shape) > 0


def shown(value) -> str:
    """Returns `repr(value)`, of a NumPy scalar as the number or text it is."""
    if isinstance(value, np.generic):
        value = value.item()
    return repr(value)


def text(name: str, value) -> str:
    """Returns `value` if it is a string that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(
            f"`{name}` must be a string that is not empty. "
            f"Received: {name}={value!r}."
        )
    return value


def seed(name: str, value) -> int | None:
    """Returns `value` as a Python int from 0 to 2**32 - 1; None stays None."""
    if value is None:
        return None
    number = _whole_number(value)
    if number is None or not 0 <= number < 2**32:
        raise ValueError(
            f"`{name}` must be a whole number from 0 to 2**32 - 1, or None. "
            f"Received: {name}={value!r}."
        )
    return number


def flag(name: str, value) -> bool:
    """Returns `value` if it is True or False, of Python or NumPy."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(
            f"`{name}` must be True or False. Received: {name}={value!r}."
        )
    return bool(value)


def path(name: str, value) -> str:
    """Returns a path, given as text or as a `pathlib.Path`, as text."""
    if not isinstance(value, (str, os.PathLike)) or "\0" in os.fspath(value):
        raise ValueError(
            f"`{name}` must be a path, as text or as a `pathlib.Path`. "
            f"Received: {name}={value!r}."
        )
    return os.fspath(value)


def texts(name: str, values) -> list[str]:
    """Returns `values` as a list if it is a list of non-empty strings."""
    if not isinstance(values, (list, tuple)) or not all(
        isinstance(value, str) and value for value in values
    ):
        raise ValueError(
            f"`{name}` must be a list of names. Received: {name}={values!r}."
        )
    return list(values)


def instance(name: str, value, kind: type):
    """Returns `value` if it is of the class `kind`."""
    if not isinstance(value, kind):
        raise ValueError(
            f"`{name}` must be a `{kind.__name__}`. Received: {name}={value!r}."
        )
    return value


def _whole_number(value) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, numbers.Integral):
        return int(value)
    # A 0-d tensor of any backend: whole if its dtype is.
    if getattr(value, "shape", None) == () and "int" in str(value.dtype):
        return int(value)
    return None
