"""Ratings and weights as people have them, as float32, checked."""

import decimal
import numbers

import numpy as np

from keras_dp_retrieval.data.columns import (
    as_array,
    may_change,
    refuse_missing,
    types_in,
    without_tensors,
)


def rating_column(values) -> np.ndarray:
    """Returns ratings as `(n,)` float32, all finite.

    Raises:
        ValueError: If one is missing, not a number, or not finite as float32.
    """
    return _float_column("ratings", values)


def weight_column(values) -> np.ndarray:
    """Returns sample weights as `(n,)` float32, finite and greater than 0.

    Raises:
        ValueError: As `rating_column`, or if one is 0 or less.
    """
    weights = _float_column("weights", values)
    bad = weights <= 0
    if bad.any():
        raise ValueError(
            "`weights` must be greater than 0, also as float32. Received "
            f"{int(bad.sum())} that are not, the first in row "
            f"{int(bad.argmax())}: {weights[bad.argmax()]:g}. Leave out what "
            "is to count for nothing."
        )
    return weights


def _float_column(name: str, values) -> np.ndarray:
    column = as_array(name, values)
    if column.dtype.kind == "O":
        column = without_tensors(column)
        _check_numbers(name, column)
    elif column.dtype.kind in "USMmc" and column.size:
        raise _no_number(name, 0, column[0])
    try:
        with np.errstate(over="ignore"):
            small = column.astype(np.float32, copy=may_change(column))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"`{name}` must be numbers: {error}.") from error
    bad = ~np.isfinite(small)
    if bad.any():
        # One NaN spreads over the epochs into every row it meets, also where
        # its sample weight is 0.
        row = int(np.argmax(bad))
        raise ValueError(
            f"`{name}` must be finite numbers, also as float32. Received "
            f"{int(bad.sum())} that are not, the first in row {row}: "
            f"{column[row]}."
        )
    return small


def check_rating_range(
    ratings: np.ndarray, low: float, high: float, where: str = ""
) -> None:
    """Raises a ValueError if a rating lies outside `low` to `high`.

    Args:
        ratings: `(n,)` floats.
        low: float.
        high: float.
        where: str. Where they are, such as `" in the test part"`.
    """
    outside = (ratings < low) | (ratings > high)
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(
            f"Ratings must lie between {low:g} and {high:g}. Received "
            f"{int(outside.sum())} outside{where}, the first in row {row}: "
            f"{ratings[row]:g}. Correct them, or state the scale: "
            "`rating_range=(low, high)`."
        )


def _check_numbers(name: str, column: np.ndarray) -> None:
    # Strings such as "5" could be read as numbers, and so could dates.
    bad = {
        kind
        for kind in types_in(column)
        if not issubclass(kind, (numbers.Real, np.bool_, decimal.Decimal))
    }
    if bad:
        refuse_missing(name, column)
        row = [type(value) in bad for value in column].index(True)
        raise _no_number(name, row, column[row])


def _no_number(name, row, value) -> ValueError:
    if isinstance(value, np.generic):
        value = value.item()
    return ValueError(
        f"`{name}` must be numbers. Received: {value!r:.80} in row {row}, of "
        f"type {type(value).__name__}."
    )
