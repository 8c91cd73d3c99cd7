"""Columns as people have them, as NumPy arrays of one type, checked.

NumPy makes a string of the NaN in `["a", nan]`, merges `1` and `"1"`, forgets
masks and cuts off zero bytes. So a list becomes an array here only once it is
known what is in it: nothing is converted without a word.
"""

import decimal
import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

# NumPy's strings are all as wide as the longest one, 4 bytes a character: one
# long id would multiply the memory of a whole column, and a stray quote in a
# CSV file is enough to make one.
MAX_ID_LENGTH = 256

_INT64 = np.iinfo(np.int64)


def id_column(name: str, values, max_length: int = MAX_ID_LENGTH) -> np.ndarray:
    """Returns raw ids as `(n,)` int64, or as strings if they are strings.

    Args:
        name: str. How error messages call the column.
        values: `(n,)`. A list, an array or tensor of any library, or a column
            of a data frame.
        max_length: int. Of a string, in characters.

    Raises:
        ValueError: If an id is missing, neither a whole number of 64 bits nor
            a string, too long or ends in a NUL character; or if there are
            both numbers and strings.
    """
    column = as_array(name, values)
    if column.dtype.kind == "O":
        return _ids_from_objects(name, column, max_length)
    if column.size == 0:
        return column.astype(np.int64) if column.dtype.kind != "U" else column
    if column.dtype.kind == "u" and column.max() > _INT64.max:
        raise _too_large(name, int(np.argmax(column > _INT64.max)), column)
    if column.dtype.kind in "iu":
        return column.astype(np.int64, copy=False)
    if column.dtype.kind == "U":
        return _trimmed(name, column, max_length)
    raise _no_ids(name, column)


def as_array(name: str, values) -> np.ndarray:
    """Returns `(n,)` values in an array that holds them as they are.

    Its type is NumPy's own where `values` has one for all, else `object`.

    Raises:
        ValueError: If `values` is not one column, or is masked somewhere.
    """
    if isinstance(values, np.ma.MaskedArray) and values.ndim == 1:
        refuse_rows(name, np.ma.getmaskarray(values))
        values = values.data
    if isinstance(values, (str, bytes, np.generic)):
        raise _not_one_column(name, values)
    if hasattr(values, "__array__") or isinstance(values, range):
        try:
            column = np.asarray(values)
        except Exception as error:  # Tensors of some libraries refuse.
            raise ValueError(
                f"`{name}` must be a list or an array. Received: a "
                f"{type(values).__name__} that NumPy cannot read ({error})."
            ) from error
    elif isinstance(values, Sequence):
        column = np.fromiter(values, object, len(values))
    else:
        raise _not_one_column(name, values)
    if column.ndim != 1:
        raise ValueError(
            f"`{name}` must be one-dimensional. Received: shape {column.shape}."
        )
    if column.dtype.kind == "T":  # NumPy's strings of variable width.
        column = column.astype(object)
    return column


def may_change(array: np.ndarray) -> bool:
    """Whether somebody can write into an array, so that it must be copied.

    A view that is read-only shows what its owner writes: such are the columns
    of pandas from version 3 on. What Arrow owns does not change.
    """
    owner: Any = array
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return True
        owner = owner.base
    return owner is not None and not type(owner).__module__.startswith(
        "pyarrow"
    )


def _not_one_column(name, values) -> ValueError:
    return ValueError(
        f"`{name}` must be one-dimensional, such as a list or an array. "
        f"Received: {values!r:.80}, of type {type(values).__name__}. Make a "
        f"list of it: `list({name})`, or `[{name}]` for a single one."
    )


def types_in(column: np.ndarray) -> set[type]:
    """The types of the entries of an array of objects."""
    return set(map(type, column))


def refuse_missing(name: str, column: np.ndarray) -> None:
    """Raises a ValueError if an entry of an array of objects is missing."""
    usual = (str, int, bool)
    if types_in(column).issubset(usual):
        return
    missing = (type(v) not in usual and is_missing(v) for v in column)
    refuse_rows(name, np.fromiter(missing, bool, len(column)))


def refuse_rows(name: str, missing: np.ndarray) -> None:
    """Raises a ValueError if an entry is missing, by a mask of those."""
    if missing.any():
        raise ValueError(
            f"`{name}` must not have missing values. Received "
            f"{int(missing.sum())}, the first in row {int(missing.argmax())}. "
            "Leave those rows out, or fill them in."
        )


def is_missing(value) -> bool:
    """Whether a value is None, NaN, NaT, masked, or the NA of pandas."""
    if type(value) is float:
        return value != value
    if value is None or value is np.ma.masked:
        return True
    if type(value).__name__ in ("NAType", "NaTType"):
        return True  # Of pandas, which need not be installed.
    if isinstance(value, np.datetime64):
        return bool(np.isnat(value))
    if isinstance(value, (numbers.Real, decimal.Decimal)):
        return math.isnan(value)
    return False


def _is_whole(kind: type) -> bool:
    return issubclass(kind, numbers.Integral) and kind is not bool


def _ids_from_objects(name, column, max_length) -> np.ndarray:
    column = without_tensors(column)
    refuse_missing(name, column)
    kinds = types_in(column)
    if not kinds or all(map(_is_whole, kinds)):
        try:
            return np.fromiter(column, np.int64, len(column))
        except OverflowError:
            fits = [_INT64.min <= value <= _INT64.max for value in column]
            raise _too_large(name, fits.index(False), column) from None
    if all(issubclass(kind, str) for kind in kinds):
        _check_texts(name, column, max_length)
        return column.astype(str)
    named = sorted({_kind_name(kind) for kind in kinds})
    if len(named) > 1:
        first = _kind_name(type(column[0]))
        row = [_kind_name(type(v)) == first for v in column].index(False)
        raise ValueError(
            f"`{name}` must be all whole numbers or all strings. Received a "
            f"mixture of: {named}, such as {column[0]!r:.40} in row 0 and "
            f"{column[row]!r:.40} in row {row}."
        )
    raise _no_ids(name, column)


def without_tensors(column: np.ndarray) -> np.ndarray:
    """Takes single numbers out of their 0-d arrays, if there are any."""
    if not any(hasattr(kind, "__array__") for kind in types_in(column)):
        return column

    def taken(value):
        if value is not np.ma.masked and getattr(value, "shape", None) == ():
            return np.asarray(value)[()]
        return value

    return np.fromiter(map(taken, column), object, len(column))


def _kind_name(kind: type) -> str:
    if issubclass(kind, str):
        return "str"
    return "int" if _is_whole(kind) else kind.__name__


def _check_texts(name: str, column: np.ndarray, max_length: int) -> None:
    """Before they become an array of a fixed width."""
    for row, text in enumerate(column):
        check_text(name, row, text, max_length)


def check_text(name: str, row: int, text: str, max_length: int) -> None:
    """Raises a ValueError if NumPy could not keep this id as it is."""
    if len(text) > max_length:
        raise _too_long(name, row, len(text), max_length, text)
    if text.endswith("\0"):
        raise ValueError(
            f"`{name}` must not end in a NUL character: NumPy would cut it "
            f"off. Received: {text!r} in row {row}."
        )


def _trimmed(name, column: np.ndarray, max_length: int) -> np.ndarray:
    """Strings that are a NumPy array already, as wide as they need be."""
    lengths = np.strings.str_len(column)
    longest = int(lengths.max())
    if longest > max_length:
        row = int(lengths.argmax())
        raise _too_long(name, row, longest, max_length, str(column[row]))
    if column.dtype.itemsize > 4 * max_length:
        column = column.astype(f"U{max(longest, 1)}")
    return column


def _too_long(name, row, length, max_length, text) -> ValueError:
    return ValueError(
        f"`{name}` must have at most {max_length} characters each. Received: "
        f"{length:,} in row {row}, beginning with {text[:40]!r}. A stray "
        "quote in a file is enough to make such an id. If yours are so long, "
        "shorten them, such as with `hashlib`."
    )


def _too_large(name, row, column) -> ValueError:
    return ValueError(
        f"`{name}` must fit into 64 bits with a sign. Received: "
        f"{column[row]} in row {row}. Pass such ids as strings."
    )


def _no_ids(name, column) -> ValueError:
    first = column[0]
    plain = first.item() if isinstance(first, np.generic) else first
    type_name = type(first).__name__
    if column.dtype.kind == "f" or isinstance(plain, float):
        refuse_rows(name, np.isnan(column.astype(np.float64)))
        remedy = f"If they are whole, use `{name}.astype('int64')`."
    elif isinstance(plain, bytes):
        remedy = "Decode them: `[one.decode() for one in ids]`."
    elif isinstance(plain, (Sequence, dict, set, np.ndarray)):
        return ValueError(
            f"`{name}` must be one-dimensional: whole numbers or strings. "
            f"Received: a {type_name} in row 0, {plain!r:.80}."
        )
    else:
        remedy = "Number them, or make strings of them."
    return ValueError(
        f"`{name}` must be whole numbers or strings. Received: values of type "
        f"{type_name}, such as {plain!r:.80}. {remedy}"
    )
