"""Filters: which candidates have the features that a request asks for.

| kind of column | a condition is |
| --- | --- |
| categorical, multi-label | a value: the candidate has it |
| | a list: it has one of them |
| | `{"any": [...], "all": [...], "none": [...]}`, or some of these |
| numeric, date | a number, or a date as ISO text: it is equal |
| | a pair `[low, high]`: it is between, both included; None is no bound |
| | `{"min": low, "max": high}`, or one of these |

All conditions must hold. A candidate of which a value is not known meets no
condition on it but `"none"`.

Numbers are compared as the model keeps them: standardized, in float32. Two that
differ by less than about a ten-millionth of the column's standard deviation, or
of their distance from its mean, are the same.
"""

import datetime
import numbers
from collections.abc import Mapping

import numpy as np
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.features import column_encoders
from keras_dp_retrieval.model.request_users import POPULAR

_LABELS = ("categorical", "multi_label")
_NUMBERS = ("numeric", "date")
_OF_LABELS = ("any", "all", "none")
_OF_NUMBERS = ("min", "max")

EXAMPLE = "{'genres': 'Comedy', 'year': [1990, 1999]}"


def fulfilled(model, filters, unknown: str) -> np.ndarray:
    """Which candidates fulfil all conditions, bool `(num_candidates,)`.

    Args:
        model: `TwoTowerRetrieval`.
        filters: dict from the name of a feature to a condition, see above.
        unknown: `"raise"`, or `"popular"`: a value that the model does not
            know is no error, and no candidate has it.

    Raises:
        ValueError: If the model has no features of candidates, or not this
            one, or it is no such condition.
    """
    if not isinstance(filters, Mapping):
        raise ValueError(
            "`filters` must be a dict from features to conditions, such as "
            f"{EXAMPLE}. Received: {_checks.shown(filters):.80}."
        )
    lookup = model.candidate_features
    if lookup is None:
        raise ValueError(
            "`filters` need a model with features of candidates. Received: a "
            "model without. Make it with `TwoTowerRetrieval.for_dataset(data)`"
            ", and the data with `candidate_features=...`."
        )
    conditions = {
        name: _condition(name, condition, lookup.schema.encoders, unknown)
        for name, condition in filters.items()
    }
    mask = ops.ones((lookup.num_rows,), "bool")
    for name, holds in conditions.items():
        column = ops.convert_to_tensor(lookup.columns[name])
        mask = ops.logical_and(mask, holds(column, lookup.is_known > 0))
    return ops.convert_to_numpy(mask)


def _condition(name, condition, encoders, unknown):
    """Returns a function `(column, is_known) -> bool (num_rows,)`."""
    encoder = encoders.get(name) if isinstance(name, str) else None
    if encoder is None or encoder.kind not in _LABELS + _NUMBERS:
        kinds = {
            one: encoder.kind
            for one, encoder in encoders.items()
            if encoder.kind in _LABELS + _NUMBERS
        }
        what = _checks.shown(name) if encoder is None else f"{name!r}, a text"
        raise ValueError(
            "`filters` must be of categorical, multi-label, numeric or date "
            f"features of the candidates. Received: {what}. There are: "
            f"{kinds}."
        )
    if encoder.kind in _LABELS:
        return _label_condition(name, condition, encoder, unknown)
    return _number_condition(name, condition, encoder)


def _label_condition(name, condition, encoder, unknown):
    parts = condition
    if not isinstance(condition, Mapping):
        parts = {"any": condition}
    _check_parts(name, parts, _OF_LABELS)
    wanted = {
        part: [
            _index_of(name, value, encoder, unknown)
            for value in _as_list(values)
        ]
        for part, values in parts.items()
    }

    def holds(column, is_known):
        none = ops.zeros_like(is_known)

        def has(index):
            # 0, which is padding, stands for what the model does not know.
            if not index:
                return none
            found = ops.equal(column, index)
            return ops.any(found, axis=1) if encoder.is_pooled else found

        mask = ops.ones_like(is_known)
        if "any" in wanted:
            mask = none
            for index in wanted["any"]:
                mask = ops.logical_or(mask, has(index))
        for index in wanted.get("all", []):
            mask = ops.logical_and(mask, has(index))
        for index in wanted.get("none", []):
            mask = ops.logical_and(mask, ops.logical_not(has(index)))
        return mask

    return holds


def _number_condition(name, condition, encoder):
    parts = condition
    if _checks.is_listed(condition):
        if len(condition) != 2:
            raise _wrong(name, condition, "two bounds, such as [1990, None]")
        parts = dict(zip(_OF_NUMBERS, condition, strict=True))
    elif not isinstance(condition, Mapping):
        parts = dict.fromkeys(_OF_NUMBERS, condition)
        if condition is None:
            raise _wrong(name, condition, "a number or a pair of bounds")
    _check_parts(name, parts, _OF_NUMBERS)
    bounds = {
        part: _encoded_number(name, value, encoder)
        for part, value in parts.items()
        if value is not None
    }
    low, high = bounds.get("min"), bounds.get("max")
    if low is not None and high is not None and low > high:
        raise _wrong(name, condition, "a lower bound first")

    def holds(column, is_known):
        mask = ops.logical_and(
            is_known, ops.logical_not(column_encoders.is_no_number(column))
        )
        if low is not None:
            mask = ops.logical_and(mask, column >= low)
        if high is not None:
            mask = ops.logical_and(mask, column <= high)
        return mask

    return holds


def _check_parts(name, parts, allowed):
    if not parts or not set(parts) <= set(allowed):
        raise _wrong(name, parts, f"a dict with some of {list(allowed)}")


def _as_list(values) -> list:
    if isinstance(values, (set, frozenset)):
        return list(values)
    return list(values) if _checks.is_listed(values) else [values]


def _index_of(name, value, encoder, unknown) -> int:
    """The index of a value in an encoded column; 0 if it is not known."""
    from keras_dp_retrieval.data.features.feature_reading import as_arrow

    if not isinstance(value, (str, numbers.Number, np.bool_)) or value == "":
        raise _wrong(name, value, "texts, numbers or truth values")
    # As a list, so that "a|b" is one label.
    raw = [[value]] if encoder.is_pooled else [value]
    index = int(encoder.encode(name, as_arrow(name, raw)).reshape(-1)[0])
    if not index and unknown != POPULAR:
        known = ", ".join(map(repr, encoder.values[:10]))
        more = len(encoder.values) - 10
        raise ValueError(
            f"The filter of {name!r} must name values that training had. "
            f"Received: {_checks.shown(value)}. There are: {known}"
            f"{f', and {more} more' if more > 0 else ''}."
        )
    return index


def _encoded_number(name, value, encoder) -> np.float32:
    from keras_dp_retrieval.data.features.feature_reading import as_arrow

    is_date = encoder.kind == "date"
    kinds: tuple = (numbers.Real, np.number)
    if is_date:
        kinds = (str, datetime.date, np.datetime64)
    if not isinstance(value, kinds) or isinstance(value, bool):
        what = "dates, such as '1995-12-31'" if is_date else "numbers"
        raise _wrong(name, value, what)
    if not is_date:
        value = _checks.number_between(f"filters[{name!r}]", value)
    return encoder.encode(name, as_arrow(name, [value]))[0]


def _wrong(name, received, rule: str) -> ValueError:
    return ValueError(
        f"The filter of {name!r} must have {rule}. Received: "
        f"{_checks.shown(received):.80}."
    )
