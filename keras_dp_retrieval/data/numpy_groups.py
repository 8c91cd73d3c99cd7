"""How a `tf.data.Dataset` is read past TensorFlow, where one can be."""

import weakref
from collections.abc import Iterator
from typing import Any, Protocol


class NumPyGroups(Protocol):
    """The batches of a `tf.data.Dataset`, straight from NumPy.

    A batch of a `tf.data.Dataset` costs Python some 150 us. Whoever makes a
    data set of arrays can register an object with this method for it; `fit`
    of a `PaddedModel` then reads that, and never iterates the data set.
    """

    def numpy_groups(self, steps: int) -> Iterator[tuple]:
        """Yields what one pass over the data set would, stacked.

        Args:
            steps: int. Batches in a group, at least 1.

        Yields:
            `(x, y)` or `(x, y, sample_weight)`, nested NumPy arrays of shape
            `(steps, batch, ...)`. The last group of a pass may have fewer
            steps; all batches have one size. A pass that is broken off does
            not count: the next begins with the same batch.
        """


# By data set, as long as somebody has it. A `tf.data.Dataset` that is made of
# another one, as by `map`, yields something else and is not registered.
_registered: weakref.WeakKeyDictionary[Any, NumPyGroups] = (
    weakref.WeakKeyDictionary()
)


def register(dataset, groups: NumPyGroups) -> None:
    """Says that `groups` yields what a `tf.data.Dataset` does.

    `groups` must not refer to the data set, which would live for ever.
    """
    _registered[dataset] = groups


def groups_of(dataset) -> NumPyGroups | None:
    """What is registered for this very data set, or None."""
    return _registered.get(dataset)
