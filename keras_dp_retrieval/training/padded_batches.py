"""Feeds any data to the devices in equal batches, and counts every row once.

Keras refuses a batch whose rows do not divide by the devices (keras#21167),
and in several processes lets each believe that its own share is the whole.
Here every batch is padded to one fixed number of rows that divides, with real
rows of sample weight 0 (`data/row_padding.py`).
"""

import itertools
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
from keras_dp_retrieval.training import batch_identity
from keras_dp_retrieval.training.batch_groups import (
    behind,
    first_step,
    for_keras,
    map_rows,
    pad_group,
    regrouped,
    single_steps,
    stacked,
    without_padding,
)
from keras_dp_retrieval.training.keras_data import single_process_adapter
from keras_dp_retrieval.training.row_weights import with_weights

NO_ROWS = "The data must hold at least one row. Received: an empty data set."


class SourceAdapter(DataAdapter):
    """A `BatchSource` that is given as the data, and has `numpy_groups`."""

    batch_size = None

    def __init__(self, source: BatchSource):
        self._source = source

    @property
    def num_batches(self):
        return self._source.num_batches


class PaddedBatches(DataAdapter):
    """Equal batches of any data that `fit` takes, for any number of devices.

    Yields `(x, y, sample_weight)`, `sample_weight` of shape `(batch,)` with 0
    for padding. In a run of several processes, every process reads all
    batches and keeps its own rows of each: the data must come in the same
    order everywhere, so seed every shuffle. Of a streamed data set it reads
    its own rows alone.

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
        self._source: BatchSource | None = None
        if isinstance(data.get("x"), BatchSource):
            self._source = data["x"]
            self._inner = SourceAdapter(self._source)
        else:
            self._inner = single_process_adapter(data)
        if isinstance(self._inner, TFDatasetAdapter):
            self._source = source_of(self._inner.get_tf_dataset())
        self._check = check
        self._steps_per_group = steps_per_group
        self._row_multiple = distribution.row_multiple()
        distribution.check_threads()
        self._in_tensorflow: Any = None
        self._peeked: Iterator | None = None
        self._skip: tuple[int, Callable] | None = None
        self.real_rows: list[int] = []
        self.padded_rows: list[int] = []

    @property
    def num_batches(self):
        return self._inner.num_batches

    @property
    def batch_size(self):
        return self._inner.batch_size

    def identity(self) -> dict:
        """What all processes must have in common, as far as it is known."""
        return batch_identity.of_next_pass(
            self._data, self._inner, self._source
        )

    def contents(self) -> dict:
        """The same, whichever pass is next: what a run is trained on."""
        return batch_identity.of_all_passes(
            self._data, self._inner, self._source
        )

    @property
    def is_ours(self) -> bool:
        """Whether the order of an epoch is a function of seed and number."""
        return self._source is not None

    @property
    def is_array(self) -> bool:
        """Whether the order is drawn from NumPy's global random numbers."""
        return isinstance(self._inner, ArrayDataAdapter)

    @property
    def pass_number(self) -> int:
        """The number of the next pass, or of the one that has begun; or 0."""
        return 0 if self._source is None else self._source.position.epoch

    def start_at(self, number: int, batch: int, arrived: Callable) -> None:
        """Makes the next pass go on where another process left it.

        Data that are not of this package are read from the first batch, and
        dropped up to this one.

        Args:
            number: int. The `pass_number` that was.
            batch: int. How many batches of that pass were learned from.
            arrived: Function without arguments, called when others were
                dropped.
        """
        if self._source is not None:
            self._source.start_at(number, batch)
        elif batch:
            self._skip = batch, arrived

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
        skip, self._skip = self._skip, None
        if groups is None:
            groups = self._groups(steps)
        elif steps != self._steps_per_group:
            groups = regrouped(groups, steps)
        if skip is not None:
            groups = behind(groups, *skip)
        if super_batch:
            return (for_keras(group, super_batch) for group in groups)
        if steps == 1:
            return map(first_step, groups)
        return (
            map_rows(lambda rows: np.moveaxis(rows, 0, 1), group)
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
        holds. Arrays are read anew, in an order that is drawn again. And of a
        `PyDataset` it is batch 0, which the next pass reads again: workers
        that begin before the epoch does are stopped and started again, and
        hand out batches twice.
        """
        if self._source is not None:
            first = next(self._groups_of([self._source.first_batch()]))
        elif isinstance(self._inner, PyDatasetAdapter):
            first = next(self._groups_of(self._batch_zero()))
        elif self.is_array:
            # Behind what `ResumeTraining` restores until then.
            state = np.random.get_state()
            first = next(self._groups(self._steps_per_group))
            np.random.set_state(state)
        else:
            groups = self._groups(self._steps_per_group)
            first = next(groups)
            self._peeked = itertools.chain([first], groups)
        return next(single_steps(first))

    def _groups_of(self, batches) -> Iterator:
        """Some batches alone, padded, in groups of one."""
        return self._groups(1, stacked(batches, 1))

    def real_row_mask(self) -> np.ndarray:
        """Which rows of the last pass were real, over all its batches."""
        pairs = zip(self.real_rows, self.padded_rows, strict=True)
        return np.concatenate([np.arange(full) < real for real, full in pairs])

    def _batch_zero(self) -> Iterator:
        """Batch 0 of a `PyDataset`, if it has any, without its workers."""
        if self._inner.num_batches == 0:
            return iter(())
        return iter([adapters.first_of_py_dataset(self._inner)])

    def _groups(self, steps: int, unpadded: Iterator | None = None) -> Iterator:
        """Padded batches, this process's rows: `(steps, batch, ...)`."""
        self.real_rows, self.padded_rows = [], []
        own = None if unpadded else self._read_by_process(steps)
        if own is not None:
            yield from own
            return
        num_rows = 0
        for group, sizes in unpadded or self._stacked(steps):
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
                self._check(*without_padding(group[:2], sizes))
            self.real_rows += sizes.tolist()
            self.padded_rows += [num_rows] * len(sizes)
            padded = pad_group(group, sizes, num_rows)
            yield self._as_devices_read(self._own_rows(padded, num_rows))
        if not self.real_rows:
            raise ValueError(NO_ROWS)

    def _read_by_process(self, steps: int) -> Iterator | None:
        """The same of a source of which each process reads its own rows."""
        count = distribution.process_count()
        if count == 1 or self._source is None:
            return None
        groups = self._source.process_groups(
            steps, distribution.process_index(), count
        )
        return None if groups is None else self._checked_groups(groups, count)

    def _checked_groups(self, groups: Iterator, count: int) -> Iterator:
        for group, sizes in map(with_weights, groups):
            if self._check is not None:
                self._check(*without_padding(group[:2], sizes))
            # The source has padded the batches.
            num_rows = (sizes * count).tolist()
            self.real_rows += num_rows
            self.padded_rows += num_rows
            yield self._as_devices_read(group)

    def _round_up(self, num_rows) -> int:
        return distribution.round_up(int(num_rows), self._row_multiple)

    def _own_rows(self, group, num_rows: int):
        """The rows of this process."""
        if distribution.process_count() == 1:
            return group
        mine = distribution.process_rows(num_rows)
        return map_rows(lambda rows: rows[:, mine], group)

    def _as_devices_read(self, group):
        """The same in the types that the devices compute with."""
        if keras.backend.backend() == "jax":
            from keras_dp_retrieval._jax.dtypes import as_jax_reads

            group = map_rows(as_jax_reads, group)
        return group

    def _stacked(self, steps: int) -> Iterator:
        """The batches, `steps` of them stacked, before they are padded.

        Yields:
            `((x, y, sample_weight), sizes)`: arrays `(steps, longest, ...)`,
            and how many rows of each step there are, `(steps,)`.
        """
        if self._source is not None:
            groups = self._source.numpy_groups(steps)
            if groups is not None:
                return map(with_weights, groups)
        if isinstance(self._inner, TFDatasetAdapter):
            dataset = self._inner.get_tf_dataset()
            if steps > 1 and can_stack(dataset):
                if self._in_tensorflow is None:
                    self._in_tensorflow = stack(dataset, steps)
                elements = self._in_tensorflow.as_numpy_iterator()
                return itertools.starmap(with_weights, elements)
        return stacked(self._inner.get_jax_iterator(), steps)
