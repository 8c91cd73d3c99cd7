"""What a `tf.data.Dataset` was made from, and what that can do besides.

A `tf.data.Dataset` yields batches and knows no more. `fit`, callbacks and what
resumes a run need more of the data sets of this package: `source_of(dataset)`
returns the `BatchSource` that was registered for it.
"""

import dataclasses
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.timeline import Timeline


@dataclasses.dataclass
class Position:
    """Where the next pass over a data set begins.

    Args:
        epoch: int. Its number, from 0.
        batch: int. Batches of that pass that are done.
    """

    epoch: int = 0
    batch: int = 0

    def start_at(self, epoch: int, batch: int, num_batches: int) -> None:
        """Sets it; a pass of which nothing is left is the next one's begin.

        Raises:
            ValueError: If a pass has fewer batches.
        """
        epoch = _checks.non_negative_int("epoch", epoch)
        batch = _checks.non_negative_int("batch", batch)
        if batch > num_batches:
            raise ValueError(
                f"`batch` must be at most the {num_batches:,} batches of "
                f"an epoch. Received: batch={batch:,}. Was the data set made "
                "with another `batch_size`?"
            )
        if batch == num_batches:
            epoch, batch = epoch + 1, 0
        self.epoch, self.batch = epoch, batch

    def end_pass(self, epoch: int) -> None:
        """Notes that the last batch of an epoch was handed over."""
        self.epoch, self.batch = epoch + 1, 0

    def check_whole(self) -> None:
        """Raises a ValueError where a `tf.data.Dataset` cannot begin."""
        if self.batch:
            raise ValueError(
                "Only `fit` of a model of this package can begin within "
                "an epoch. Received: a data set that stands at batch "
                f"{self.batch}. Use `start_at_epoch(epoch)`."
            )


class BatchSource:
    """What made a `tf.data.Dataset`: all that can be asked of it.

    The first three methods are for a subclass to implement, and it sets
    `position`. The others have defaults that say that the source has no such
    thing.

    Attributes:
        position: `Position` of the next pass.
        timeline: Optional `Timeline`: the interactions that the targets are
            taken from, in an order that `ShuffleTies` may change.
        row_ids: Optional dict from `"user"` and `"candidate"` to arrays: the
            ids of the rows 1 to n that the batches hold.
    """

    position: Position
    timeline: Timeline | None = None
    row_ids: Mapping[str, Any] | None = None

    @property
    def num_batches(self) -> int:
        """Batches of a whole pass."""
        raise NotImplementedError

    def contents(self) -> tuple[int, str | None]:
        """Returns how many examples there are, and a text for all of them.

        The text differs where the passes from the first on would yield other
        examples, or in another order; None if it cannot be known. It does not
        depend on the position, nor on how batches are padded.
        """
        raise NotImplementedError

    def identity(self) -> tuple[int, str | None]:
        """As `contents`, of what the next pass would yield.

        Processes that train together compare them.
        """
        rows, text = self.contents()
        where = self.position
        return rows, text and f"{text} at {where.epoch}, {where.batch}"

    def first_batch(self) -> tuple:
        """Returns the first batch of the next pass, without beginning it.

        Nested NumPy arrays `(batch, ...)`, to build a model with. The data of
        the pass may still change, as by a callback when `fit` begins.
        """
        raise NotImplementedError

    def start_at_epoch(self, epoch: int) -> None:
        """Makes the next pass the epoch of this number, from 0.

        The order of an epoch depends on the seed and on its number, so that a
        resumed run sees what it would have seen.
        """
        self.start_at(epoch)

    def start_at(self, epoch: int, batch: int = 0) -> None:
        """Makes the next pass begin within an epoch.

        A `tf.data.Dataset` that is iterated can only begin with the first
        batch; what reads `numpy_groups`, as `fit` of a `PaddedModel`, with any.

        Args:
            epoch: int. Its number, from 0.
            batch: int. How many of its batches have been learned from. What
                was read ahead, and not learned from, does not count.

        Raises:
            ValueError: If a pass has fewer batches.
        """
        self.position.start_at(epoch, batch, self.num_batches)

    def numpy_groups(self, steps: int) -> Iterator[tuple] | None:
        """Yields what one pass over the data set would, stacked.

        A batch of a `tf.data.Dataset` costs Python some 150 us. `fit` of a
        `PaddedModel` reads these groups instead, and never iterates the data
        set.

        Args:
            steps: int. Batches in a group, at least 1.

        Returns:
            Iterator of `(x, y)` or `(x, y, sample_weight)`, nested NumPy
            arrays of shape `(steps, batch, ...)`. The last group of a pass may
            have fewer steps; all batches have one size. They begin at the
            position. A pass that is broken off does not count: the next begins
            with the same batch. None where the data set has to be iterated.
        """
        return None

    def process_groups(
        self, steps: int, index: int, count: int
    ) -> Iterator[tuple] | None:
        """Yields one process's rows of what `numpy_groups` yields.

        Every batch is divided among the processes in equal slices, the first
        rows for process 0. Which batches there are does not depend on the
        number of processes.

        Args:
            steps: int. As in `numpy_groups`.
            index: int. The number of the process, from 0.
            count: int. How many processes there are.

        Returns:
            Iterator of `(x, y)` or `(x, y, sample_weight)`, nested NumPy
            arrays `(steps, batch / count, ...)`. None where a process reads
            all rows and picks its own.
        """
        return None


# By data set, as long as somebody has it. A `tf.data.Dataset` that is made of
# another one, as by `map`, yields something else and is not registered.
_registered: weakref.WeakKeyDictionary[Any, BatchSource] = (
    weakref.WeakKeyDictionary()
)


def register(dataset, source: BatchSource) -> None:
    """Says that `source` yields what a `tf.data.Dataset` does.

    `source` must not refer to the data set, which would live for ever.
    """
    _registered[dataset] = source


def source_of(dataset) -> BatchSource | None:
    """What is registered for this very data set; None for any other one.

    A source is its own: `fit` of a `PaddedModel` takes it as it is, and then
    needs no TensorFlow, whose import takes seconds.
    """
    if isinstance(dataset, BatchSource):
        return dataset
    try:
        return _registered.get(dataset)
    except TypeError:  # Not hashable, or without weak references: not ours.
        return None
