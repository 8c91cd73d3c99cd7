"""Features that are given to a trained model: encoded, and appended."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.features.feature_source import columns_for_ids
from keras_dp_retrieval.data.vocabulary import Vocabulary


class NewFeatures(NamedTuple):
    """Encoded features of new rows, or of those of a request.

    Attributes:
        columns: dict from names to arrays `(num_new, ...)`.
        is_known: bool `(num_new,)`. Rows that have features.
    """

    columns: dict
    is_known: np.ndarray


def encoded(model, side: str, features, ids, length: int) -> NewFeatures:
    """Encodes features of new users or candidates, or of those of a request.

    Args:
        model: `TwoTowerRetrieval`.
        side: `"user"` or `"candidate"`.
        features: A frame or a dict of columns, one row for each of `ids` in
            this order; with a column of ids, in any order.
        ids: Optional raw ids `(length,)`.
        length: int.

    Returns:
        `NewFeatures`; those are known who have a value that the model knows.

    Raises:
        ValueError: If the model has no features on this side, or these do not
            fit.
    """
    lookup = _lookup(model, side)
    names = list(lookup.schema.encoders)
    columns = columns_for_ids(features, side, names, ids)
    found = NewFeatures(*lookup.schema.encode_known(columns))
    for name, column in found.columns.items():
        if len(column) != length:
            raise ValueError(
                f"Features must have one row for each of the {length} "
                f"{side}s. Received: {len(column)} in {name!r}."
            )
    return found


def _lookup(model, side):
    lookup = getattr(model, f"{side}_features")
    if lookup is None:
        raise ValueError(
            f"`{side}_features` need a model with features of {side}s. "
            "Received: a model without. Make it with "
            "`TwoTowerRetrieval.for_dataset(data)`, and the data with "
            f"`{side}_features=...`."
        )
    return lookup


def of_data(model, side: str, data, ids) -> NewFeatures | None:
    """The features that a data set has of new ids, as the model encodes them.

    Args:
        model: `TwoTowerRetrieval`.
        side: `"user"` or `"candidate"`.
        data: `SplitDataset`.
        ids: Raw ids `(num_new,)`.
    """
    lookup = getattr(model, f"{side}_features")
    table = data.raw_features(side)
    if lookup is None or table is None:
        return None
    rows = Vocabulary(table.ids).rows(ids)
    is_known = rows > 0
    rows = np.maximum(rows, 1) - 1
    columns = {name: one.take(rows) for name, one in table.columns.items()}
    found = lookup.encode(columns)
    for column in found.values():
        column[~is_known] = 0
    return NewFeatures(found, is_known)


def grow(model, side, found: NewFeatures | None, num_new: int, resize, undo):
    """Appends rows to the model's features, unknown ones if `found` is None.

    Args:
        model: `TwoTowerRetrieval`.
        side: `"user"` or `"candidate"`.
        found: Optional `NewFeatures`.
        num_new: int. Rows to append.
        resize: Function `(variable, value, undo)` that gives a variable
            another shape.
        undo: `contextlib.ExitStack` that takes it all back.
    """
    lookup = getattr(model, f"{side}_features")
    if lookup is None:
        return
    if found is None:
        unknown = lookup.schema.unknown(num_new)
        found = NewFeatures(unknown, np.zeros(num_new, bool))
    undo.callback(setattr, lookup, "widths", dict(lookup.widths))
    undo.callback(setattr, lookup, "num_rows", lookup.num_rows)
    for name, variable in lookup.columns.items():
        old = ops.convert_to_numpy(variable)
        longer = _appended(old, found.columns[name])
        resize(variable, longer, undo)
        if longer.ndim > 1:
            lookup.widths[name] = longer.shape[1]
    known = ops.convert_to_numpy(lookup.is_known)
    resize(lookup.is_known, _appended(known, found.is_known), undo)
    lookup.num_rows = _checks.table_size("num_rows", lookup.num_rows + num_new)


def _appended(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Rows after others; of the wider of the two, padded with 0."""
    if old.ndim > 1:
        width = max(old.shape[1], new.shape[1])
        old, new = (
            np.pad(one, ((0, 0), (0, width - one.shape[1])))
            for one in (old, new)
        )
    return np.concatenate([old, new.astype(old.dtype)])


def num_rows(features) -> int:
    """The number of rows of a frame, or of a dict of columns."""
    if isinstance(features, Mapping):
        lengths = [len(column) for column in features.values()]
        return lengths[0] if lengths else 0
    return len(features)
