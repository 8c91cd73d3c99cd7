"""Columns of strings as Arrow has them, wherever they come from."""

import numpy as np

from keras_dp_retrieval.data import columns


def of_library(name: str, values):
    """A column of strings that a library keeps as Arrow does, or None."""
    is_arrow = any(
        hasattr(values, f"__arrow_c_{protocol}__")
        for protocol in ("array", "stream")
    )
    # Series of pandas with a type of NumPy are arrays that NumPy reads better.
    if not is_arrow or isinstance(getattr(values, "dtype", None), np.dtype):
        return None
    import pyarrow

    try:
        column = _plain_texts(pyarrow.chunked_array(values))
    except (TypeError, ValueError, NotImplementedError):
        return None  # NumPy may read it, or says what is wrong.
    if column is not None and column.null_count:
        columns.refuse_rows(name, column.is_null().to_numpy())
    return column


def _plain_texts(column):
    """A column of Arrow as strings or a dictionary of them, or None."""
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(column.type):
        inner = pyarrow.chunked_array([one.dictionary for one in column.chunks])
        if inner.null_count or _plain_texts(inner) is None:
            return _plain_texts(column.cast(column.type.value_type))
        return column
    if types.is_string_view(column.type):
        return column.cast(pyarrow.large_string())
    is_text = types.is_string(column.type) or types.is_large_string(column.type)
    return column if is_text else None


def of_array(column: np.ndarray):
    """A column of nothing but strings as Arrow has it, or None."""
    if column.dtype.kind == "U":
        column = column.astype(object)
    if column.dtype.kind != "O" or columns.types_in(column) != {str}:
        return None
    import pyarrow

    try:
        texts = pyarrow.array(column, pyarrow.string())
    except (UnicodeError, pyarrow.ArrowException):
        return None  # Half a surrogate pair is no text for Arrow.
    return pyarrow.chunked_array(texts)
