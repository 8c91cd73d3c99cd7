"""Data as Keras reads it, for one process and one device."""

import contextlib
import warnings

import keras

from keras_dp_retrieval._keras import adapters
from keras_dp_retrieval._keras.adapters import DataAdapter


@contextlib.contextmanager
def read_by_keras():
    """Says what data can be, where Keras cannot read what it was given."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise ValueError(
            "The data must be arrays with one entry for each row, dicts of "
            "such arrays, a `tf.data.Dataset`, a `PyDataset` or a generator "
            f"of `(x, y)` batches. Keras could not read it: {error}"
        ) from error


def single_process_adapter(data: dict) -> DataAdapter:
    """Keras' own adapter, which must not know of other processes or devices."""
    current = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        with warnings.catch_warnings():
            # `fit` shuffles by default; that a data set orders itself is no
            # news to whoever passed one.
            warnings.filterwarnings("ignore", "`shuffle=True` was passed")
            with read_by_keras():
                return adapters.get_data_adapter(**data)
    finally:
        keras.distribution.set_distribution(current)
