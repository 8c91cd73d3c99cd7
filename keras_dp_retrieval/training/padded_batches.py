"""Feeds any data to the devices in equal batches, and counts every row once.

Keras refuses a batch whose rows do not divide by the devices (keras#21167),
and in several processes lets each believe that its own share is the whole.
Here every batch is padded to one fixed number of rows that divides, with real
rows of sample weight 0 (`data/row_padding.py`).
"""

import contextlib
import functools
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_dp_retrieval import _checks, distribution
from keras_dp_retrieval._keras import adapters
from keras_dp_retrieval._keras.adapters import (
    ArrayDataAdapter,
    DataAdapter,
    PyDatasetAdapter,
    TFDatasetAdapter,
)
from keras_dp_retrieval.data._tensorflow import as_dataset, can_stack, stack
from keras_dp_retrieval.data.batch_sources import BatchSource, source_of
from keras_dp_retrieval.data.digests import digest
from keras_dp_retrieval.data.row_padding import pad_rows

# The arguments of `fit` that hold data.
ARRAYS = ("x", "y", "sample_weight")

NO_ROWS = "The data must hold at least one row. Received: an empty data set."


def pad_batch(batch: tuple, num_rows: int) -> tuple:
    """Pads a batch to `num_rows` rows.

    Args:
        batch: `(x,)`, `(x, y)` or `(x, y, sample_weight)`, nested NumPy arrays
            of shape `(batch, ...)`.
        num_rows: int. Rows to return, at least `batch`.

    Returns:
        `(x, y, sample_weight)` of shape `(num_rows, ...)`; see `pad_rows`.
    """
    group, sizes = _with_weights(_map(lambda rows: rows[None], batch))
    padded = _pad_group(group, sizes, num_rows)
    return _map(lambda rows: rows[0], padded)


def row_weights(sample_weight, shape=None) -> np.ndarray:
    """Returns `sample_weight` as one weight for each row, float32.

    Keras takes one array for each key of a dict `y`. Here the keys describe
    one example, so that arrays of several keys must agree.

    Args:
        sample_weight: `(batch,)`, or a dict of such.
        shape: What to return them in; `(batch,)` by default.

    Raises:
        ValueError: If the keys' weights differ, there is not one weight for
            each row, or one is negative, NaN or infinite as a float32.
    """
    if isinstance(sample_weight, (list, tuple)) and not any(
        np.ndim(weight) for weight in sample_weight
    ):
        sample_weight = np.array(sample_weight)
    first, *others = map(
        np.asarray, keras.tree.flatten(sample_weight) or ["nothing"]
    )
    try:
        with np.errstate(over="ignore"):  # What overflows is infinite below.
            weights = first.astype("float32")
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`sample_weight` must be numbers, one for each row. Received: "
            f"{sample_weight!r:.80}."
        ) from error
    bad = ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        raise ValueError(
            "`sample_weight` must be finite and not negative. Received: "
            f"{first[bad].flat[0]}, and {bad.sum() - 1} more such in "
            f"{weights.size} rows. Use 0 for a row that is not to count."
        )
    if any(not np.array_equal(other, first) for other in others):
        raise ValueError(
            "`sample_weight` must be one weight for each row, `(batch,)`: the "
            "keys of the targets describe one example together. Received: a "
            f"{type(sample_weight).__name__} of weights that differ between "
            "its keys. Pass one array."
        )
    shape = weights.shape[:1] if shape is None else shape
    if weights.size != np.prod(shape):
        raise ValueError(
            "`sample_weight` must be one weight for each row, `(batch,)`. "
            f"Received: {weights.size} weights for {np.prod(shape)} rows."
        )
    return weights.reshape(shape)


class PaddedBatches(DataAdapter):
    """Equal batches of any data that `fit` takes, for any number of devices.

    Yields `(x, y, sample_weight)`, `sample_weight` of shape `(batch,)` with 0
    for padding. In a run of several processes, every process reads all
    batches and keeps its own rows of each: the data must come in the same
    order everywhere, so seed every shuffle.

    A `tf.data.Dataset` costs Python some 150 us a batch. Groups are therefore
    stacked by TensorFlow where it can; and a data set whose `BatchSource` has
    `numpy_groups`, as `.train` of a `RetrievalDataset`, is not iterated at all.

    Args:
        data: dict. The arguments `x`, `y`, `sample_weight`, `batch_size`,
            `shuffle`, `steps_per_epoch` and `class_weight` as `fit` has them.
        check: Optional function of `(x, y)`, which raises for a bad batch. It
            may be given several batches, one behind the other, as one.
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
        if data.get("batch_size") is not None:  # Keras takes 0 for 32.
            _checks.positive_int("batch_size", data["batch_size"])
        self._data = data
        self._inner = _single_process_adapter(data)
        self._source: BatchSource | None = None
        if isinstance(self._inner, TFDatasetAdapter):
            self._source = source_of(self._inner.get_tf_dataset())
        self._check = check
        self._steps_per_group = steps_per_group
        self._row_multiple = distribution.row_multiple()
        distribution.check_threads()
        self._in_tensorflow: Any = None
        self._peeked: Iterator | None = None
        self.real_rows: list[int] = []
        self.padded_rows: list[int] = []

    @property
    def num_batches(self):
        return self._inner.num_batches

    @property
    def batch_size(self):
        return self._inner.batch_size

    def identity(self) -> dict:
        """What all processes must have in common, as far as it is known.

        Of arrays and of the data sets of this package that is everything; of
        other streams the number and the size of the batches.
        """
        rows = contents = None
        if isinstance(self._inner, ArrayDataAdapter):
            arrays = [self._data.get(name) for name in ARRAYS]
            rows = _num_rows(arrays[0])
            contents = digest(*arrays)
        elif self._source is not None:
            rows, contents = self._source.identity()
        batches = self._data.get("steps_per_epoch") or self.num_batches
        return {
            "rows": rows,
            "steps": None if batches is None else int(batches),
            "batch size": self.batch_size and int(self.batch_size),
            "contents": contents,
        }

    def on_epoch_begin(self):
        self._inner.on_epoch_begin()

    def on_epoch_end(self):
        self._inner.on_epoch_end()

    def get_jax_iterator(self, super_batch: int | None = None) -> Iterator:
        """One pass over the data.

        Args:
            super_batch: A Keras that fuses steps itself asks for groups of
                this many batches, `(steps, batch, ...)`.
        """
        steps = super_batch or self._steps_per_group
        groups, self._peeked = self._peeked, None
        if groups is None:
            groups = self._groups(steps)
        elif steps != self._steps_per_group:
            groups = _regrouped(groups, steps)
        if super_batch:
            return (_for_keras(group, super_batch) for group in groups)
        if steps == 1:
            return map(_first_step, groups)
        return (
            _map(lambda rows: np.moveaxis(rows, 0, 1), group)
            for group in groups
        )

    # Other backends take NumPy arrays too.
    get_numpy_iterator = get_jax_iterator

    def get_tf_dataset(self):
        return as_dataset(self.get_numpy_iterator, self.first_batch())

    def get_torch_dataloader(self):
        return adapters.torch_dataloader(self.get_numpy_iterator())

    def first_batch(self) -> tuple:
        """Returns a padded batch, to build a model with.

        It is the first of the next pass, which still begins with it and is
        the same pass over the data: a generator cannot be read twice, and a
        data set may count its epochs. But of a data set with a `BatchSource`
        no pass is begun, as callbacks may still change what its first pass
        holds; and of a `PyDataset` it is batch 0, which the next pass reads
        again: workers that begin before the epoch does are stopped and started
        again, and hand out batches twice.
        """
        if self._source is not None:
            batch = _map(np.asarray, self._source.first_batch())
            if self._check is not None:
                x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
                self._check(x, y)
            size = self._round_up(_num_rows(batch))
            group = _map(lambda rows: rows[None], pad_batch(batch, size))
            return _map(lambda rows: rows[0], self._own_rows(group, size))
        if isinstance(self._inner, PyDatasetAdapter):
            groups = self._groups(1, _stack(self._batch_zero(), 1))
            return _map(lambda rows: rows[0], next(groups))
        groups = self._groups(self._steps_per_group)
        first = next(groups)
        self._peeked = itertools.chain([first], groups)
        return _map(lambda rows: rows[0], first)

    def real_row_mask(self) -> np.ndarray:
        """Which rows of the last pass were real, over all its batches."""
        pairs = zip(self.real_rows, self.padded_rows, strict=True)
        return np.concatenate([np.arange(full) < real for real, full in pairs])

    def _batch_zero(self) -> Iterator:
        """Batch 0 of a `PyDataset`, if it has any, without its workers."""
        if self._inner.num_batches == 0:
            return iter(())
        return iter([adapters.first_of_py_dataset(self._inner)])

    def _groups(self, steps: int, stacked: Iterator | None = None) -> Iterator:
        """Padded batches, this process's rows: `(steps, batch, ...)`."""
        self.real_rows, self.padded_rows = [], []
        num_rows = 0
        for group, sizes in stacked or self._stacked(steps):
            # All batches are as large as the first, so that nothing is
            # compiled twice; only a larger one that comes later is not.
            num_rows = max(num_rows, self._round_up(sizes[0]))
            if self._round_up(sizes.max()) > num_rows:
                raise ValueError(
                    "With `steps_per_execution` above 1, no batch may be "
                    "larger than the first. Received: a batch of "
                    f"{sizes.max()} rows after one of {num_rows}. "
                    "Batch the data evenly, or compile with "
                    "`steps_per_execution=1`."
                )
            if self._check is not None:
                self._check(*_real_rows(group[:2], sizes))
            self.real_rows += sizes.tolist()
            self.padded_rows += [num_rows] * len(sizes)
            padded = _pad_group(group, sizes, num_rows)
            yield self._own_rows(padded, num_rows)
        if not self.real_rows:
            raise ValueError(NO_ROWS)

    def _round_up(self, num_rows) -> int:
        return distribution.round_up(int(num_rows), self._row_multiple)

    def _own_rows(self, group, num_rows: int):
        """The rows of this process, as its devices take them."""
        if distribution.process_count() > 1:
            mine = distribution.process_rows(num_rows)
            group = _map(lambda rows: rows[:, mine], group)
        if keras.backend.backend() == "jax":
            from keras_dp_retrieval._jax.dtypes import as_jax_reads

            group = _map(as_jax_reads, group)
        return group

    def _stacked(self, steps: int) -> Iterator:
        """The batches, `steps` of them stacked, before they are padded.

        Yields:
            `((x, y, sample_weight), sizes)`: arrays `(steps, longest, ...)`,
            and how many rows of each step there are, `(steps,)`.
        """
        if isinstance(self._inner, TFDatasetAdapter):
            groups = None
            if self._source is not None:
                groups = self._source.numpy_groups(steps)
            if groups is not None:
                return map(_with_weights, groups)
            dataset = self._inner.get_tf_dataset()
            if steps > 1 and can_stack(dataset):
                if self._in_tensorflow is None:
                    self._in_tensorflow = stack(dataset, steps)
                elements = self._in_tensorflow.as_numpy_iterator()
                return itertools.starmap(_with_weights, elements)
        return _stack(self._inner.get_jax_iterator(), steps)


def _for_keras(group, steps: int):
    """A group as a Keras that fuses takes it: a short one in single batches."""
    num_steps = len(group[2])
    if num_steps == steps:
        return group
    return adapters.partial_batch_list(
        _map(lambda rows, i=i: rows[i], group) for i in range(num_steps)
    )


def _regrouped(groups, steps: int) -> Iterator:
    """Groups of another number of steps than they were made with."""
    singles = (
        _map(lambda rows, i=i: rows[i], group)
        for group in groups
        for i in range(len(group[2]))
    )
    while batches := list(itertools.islice(singles, steps)):
        yield keras.tree.map_structure(
            lambda *rows: np.stack(rows), *batches, none_is_leaf=False
        )


def _stack(batches, steps: int) -> Iterator:
    batches = iter(batches)
    while group := list(itertools.islice(batches, steps)):
        group = [_map(np.asarray, batch) for batch in group]
        sizes = np.array([_num_rows(batch) for batch in group])
        padded = [pad_batch(batch, sizes.max()) for batch in group]
        stacked = keras.tree.map_structure(
            lambda *steps: np.stack(steps) if steps[1:] else steps[0][None],
            *padded,
            none_is_leaf=False,
        )
        yield stacked, sizes


def _with_weights(group, sizes=None) -> tuple:
    """`((x, y, sample_weight), sizes)` of stacked batches."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(group)
    shape = keras.tree.flatten(x)[0].shape[:2]
    if sizes is None:
        sizes = np.full(shape[0], shape[1])
    if sample_weight is None:
        return (x, y, _ones(shape)), sizes
    return (x, y, row_weights(sample_weight, shape)), sizes


def _pad_group(group: tuple, sizes, num_rows: int) -> tuple:
    """Makes every step `num_rows` long."""
    x, y, weights = group
    if (sizes == num_rows).all() and weights.shape[1] == num_rows:
        return group
    (x, y), weights = pad_rows((x, y), sizes, num_rows, weights)
    return x, y, weights


def _real_rows(group, sizes):
    """The rows of all steps, one step behind the other, without padding."""
    longest = keras.tree.flatten(group)[0].shape[1]
    if (sizes == longest).all():
        return _map(lambda rows: rows.reshape(-1, *rows.shape[2:]), group)
    is_real = np.arange(longest) < sizes[:, None]
    return _map(lambda rows: rows[is_real], group)


def _first_step(group) -> tuple:
    """The batch of a group of one."""
    x, y, weights = group
    x, y = _map(lambda rows: rows[0], (x, y))
    if weights is _ones(weights.shape):
        return x, y, _ones(weights.shape[1:])
    return x, y, weights[0]


@functools.lru_cache(maxsize=16)
def _ones(shape) -> np.ndarray:
    """The weights where all rows are real: one array, which nobody changes.

    Who counts its rows need do so only once.
    """
    ones = np.ones(shape, "float32")
    ones.flags.writeable = False
    return ones


def _map(function, arrays):
    return keras.tree.map_structure(function, arrays, none_is_leaf=False)


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


def _single_process_adapter(data: dict) -> DataAdapter:
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


def _num_rows(batch) -> int:
    return len(keras.tree.flatten(batch)[0])
