"""Feeds any data to the devices in equal batches, and counts every row once.

Keras refuses a batch whose rows do not divide by the devices (keras#21167),
and in several processes lets each believe that its own share is the whole.
Here every batch is filled up to one fixed number of rows that divides; the
filler repeats a real row and has sample weight 0.
"""

import itertools
import warnings
from collections.abc import Callable, Iterator

import keras
import numpy as np

# `get_data_adapter` hands a `DataAdapter` through unchanged: the one way in
# for a `Model` that prepares its batches itself. Neither is exported.
from keras.src.trainers.data_adapters import get_data_adapter
from keras.src.trainers.data_adapters.array_slicing import (
    train_validation_split,
)
from keras.src.trainers.data_adapters.data_adapter import DataAdapter

from keras_dp_retrieval import distribution

__all__ = ["PaddedBatches", "pad_batch", "train_validation_split"]


def pad_batch(batch: tuple, num_rows: int) -> tuple:
    """Fills a batch up to `num_rows` rows.

    Args:
        batch: `(x,)`, `(x, y)` or `(x, y, sample_weight)`, nested NumPy arrays
            of shape `(batch, ...)`.
        num_rows: int. Rows to return, at least `batch`.

    Returns:
        `(x, y, sample_weight)` of shape `(num_rows, ...)`. The filler repeats
        the first row, so that its ids are valid, and has weight 0.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    size = _num_rows(x)
    if sample_weight is None:
        weights = np.ones(size, "float32")
    else:
        # Keras repeats one array for every key of a dict `y`.
        leaf = keras.tree.flatten(sample_weight)[0]
        weights = np.asarray(leaf, "float32").reshape(size)
    missing = num_rows - size
    if missing:

        def fill(rows):
            return np.concatenate([rows, np.repeat(rows[:1], missing, axis=0)])

        x, y = keras.tree.map_structure(fill, (x, y), none_is_leaf=False)
        weights = np.concatenate([weights, np.zeros(missing, "float32")])
    return x, y, weights


class PaddedBatches(DataAdapter):
    """Equal batches of any data that `fit` takes, for any number of devices.

    Yields `(x, y, sample_weight)`, `sample_weight` of shape `(batch,)` with 0
    for filler rows. In a run of several processes, every process reads all
    batches and keeps its own rows of each: the data must come in the same
    order everywhere, so seed every shuffle.

    Args:
        data: dict. The arguments `x`, `y`, `sample_weight`, `batch_size`,
            `shuffle`, `steps_per_epoch` and `class_weight` as `fit` has them.
        check: Optional function of `(x, y)`, which raises for a bad batch.
        steps_per_group: int. With more than 1, this many batches come
            together, stacked behind the batch axis: `(batch, steps, ...)`.
            The last group of an epoch may hold fewer.
    """

    def __init__(
        self,
        data: dict,
        *,
        check: Callable | None = None,
        steps_per_group: int = 1,
    ):
        self._inner = _single_process_adapter(data)
        self._check = check
        self._steps_per_group = steps_per_group
        self._num_devices = distribution.num_devices()
        self._peeked: Iterator | None = None
        self.real_rows: list[int] = []
        self.padded_rows: list[int] = []

    @property
    def num_batches(self):
        return self._inner.num_batches

    @property
    def batch_size(self):
        return self._inner.batch_size

    def on_epoch_begin(self):
        self._inner.on_epoch_begin()

    def on_epoch_end(self):
        self._inner.on_epoch_end()

    def get_jax_iterator(self) -> Iterator:
        batches, self._peeked = self._peeked, None
        if batches is None:
            batches = self._pad(self._inner.get_jax_iterator())
        return batches if self._steps_per_group == 1 else self._group(batches)

    # Other backends take NumPy arrays too.
    get_numpy_iterator = get_jax_iterator

    def first_batch(self) -> tuple:
        """Returns the first padded batch, to build a model with.

        The next pass still begins with it, and is the same pass over the data:
        a generator cannot be read twice, and a data set may count its epochs.
        """
        batches = self._pad(self._inner.get_jax_iterator())
        first = next(batches)
        self._peeked = itertools.chain([first], batches)
        return first

    def is_real_row(self) -> np.ndarray:
        """Which rows of the last pass were real, over all its batches."""
        pairs = zip(self.real_rows, self.padded_rows, strict=True)
        return np.concatenate([np.arange(full) < real for real, full in pairs])

    def _pad(self, batches) -> Iterator:
        self.real_rows, self.padded_rows = [], []
        num_rows = 0
        for batch in batches:
            batch = keras.tree.map_structure(
                np.asarray, batch, none_is_leaf=False
            )
            x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
            if self._check is not None:
                self._check(x, y)
            # All batches are as large as the first, so that nothing is
            # compiled twice; only a larger one that comes later is not.
            num_rows = max(
                num_rows,
                distribution.round_up(_num_rows(x), self._num_devices),
            )
            self.real_rows.append(_num_rows(x))
            self.padded_rows.append(num_rows)
            yield self._own_rows(pad_batch(batch, num_rows), num_rows)
        if not self.real_rows:
            raise ValueError(
                "The data must hold at least one row. Received: an empty data "
                "set."
            )

    def _own_rows(self, batch, num_rows: int):
        if distribution.process_count() == 1:
            return batch
        mine = distribution.process_rows(num_rows)
        return keras.tree.map_structure(
            lambda rows: rows[mine], batch, none_is_leaf=False
        )

    def _group(self, batches) -> Iterator:
        group: list = []
        for batch in batches:
            if group and batch[2].shape != group[0][2].shape:
                raise ValueError(
                    "With `steps_per_execution` above 1, no batch may be "
                    "larger than the first. Received: a batch of "
                    f"{len(batch[2])} rows after one of {len(group[0][2])}. "
                    "Batch the data evenly, or compile with "
                    "`steps_per_execution=1`."
                )
            group.append(batch)
            if len(group) == self._steps_per_group:
                yield _stack(group)
                group = []
        if group:
            yield _stack(group)


def _stack(group: list):
    return keras.tree.map_structure(
        lambda *steps: np.stack(steps, axis=1), *group, none_is_leaf=False
    )


def _single_process_adapter(data: dict) -> DataAdapter:
    """Keras' own adapter, which must not know of other processes or devices."""
    current = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        with warnings.catch_warnings():
            # `fit` shuffles by default; that a data set orders itself is no
            # news to whoever passed one.
            warnings.filterwarnings("ignore", "`shuffle=True` was passed")
            return get_data_adapter(**data)
    finally:
        keras.distribution.set_distribution(current)


def _num_rows(x) -> int:
    return len(keras.tree.flatten(x)[0])
