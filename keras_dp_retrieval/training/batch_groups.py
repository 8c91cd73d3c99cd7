"""Batches, stacked to groups of several steps: put together, padded, cut up.

A group is `(x, y, sample_weight)`, nested NumPy arrays `(steps, batch, ...)`.
"""

import itertools
from collections.abc import Iterator

import keras
import numpy as np

from keras_dp_retrieval._keras import adapters
from keras_dp_retrieval.data.row_padding import pad_rows
from keras_dp_retrieval.training.row_weights import ones, with_weights


def map_rows(function, arrays):
    """Calls a function of every nested array; None stays None."""
    return keras.tree.map_structure(function, arrays, none_is_leaf=False)


def rows_in(batch) -> int:
    """The rows of a batch."""
    return len(keras.tree.flatten(batch)[0])


def pad_batch(batch: tuple, num_rows: int) -> tuple:
    """Pads a batch to `num_rows` rows.

    Args:
        batch: `(x,)`, `(x, y)` or `(x, y, sample_weight)`, nested NumPy arrays
            of shape `(batch, ...)`.
        num_rows: int. Rows to return, at least `batch`.

    Returns:
        `(x, y, sample_weight)` of shape `(num_rows, ...)`; see `pad_rows`.
    """
    group, sizes = with_weights(map_rows(lambda rows: rows[None], batch))
    padded = pad_group(group, sizes, num_rows)
    return map_rows(lambda rows: rows[0], padded)


def pad_group(group: tuple, sizes, num_rows: int) -> tuple:
    """Pads every step to `num_rows` rows, of which `sizes` are real."""
    x, y, weights = group
    if (sizes == num_rows).all() and weights.shape[1] == num_rows:
        return group
    (x, y), weights = pad_rows((x, y), sizes, num_rows, weights)
    return x, y, weights


def stacked(batches, steps: int) -> Iterator:
    """Stacks batches of any sizes.

    Args:
        batches: Iterable of batches as `pad_batch` takes them.
        steps: int. Batches in a group; the last group may have fewer.

    Yields:
        `(group, sizes)`: the group, padded to its longest batch, and the rows
        of each batch, `(steps,)`.
    """
    batches = iter(batches)
    while group := list(itertools.islice(batches, steps)):
        group = [map_rows(np.asarray, batch) for batch in group]
        sizes = np.array([rows_in(batch) for batch in group])
        padded = [pad_batch(batch, sizes.max()) for batch in group]
        arrays = keras.tree.map_structure(
            lambda *steps: np.stack(steps) if steps[1:] else steps[0][None],
            *padded,
            none_is_leaf=False,
        )
        yield arrays, sizes


def regrouped(groups, steps: int) -> Iterator:
    """Groups of another number of steps than they were made with."""
    batches = itertools.chain.from_iterable(map(single_steps, groups))
    return (group for group, _ in stacked(batches, steps))


def behind(groups, steps: int, arrived) -> Iterator:
    """The groups behind the first `steps` steps.

    Args:
        groups: Iterator of groups.
        steps: int. As many as some of the groups have together.
        arrived: Function without arguments: called before the first group
            that is yielded.
    """
    while steps > 0 and (group := next(groups, None)) is not None:
        steps -= len(group[2])
    arrived()
    yield from groups


def single_steps(group) -> Iterator:
    """The batches of a group, one by one."""
    return (
        map_rows(lambda rows, i=i: rows[i], group) for i in range(len(group[2]))
    )


def for_keras(group, steps: int):
    """A group as a Keras that fuses takes it: a short one in single batches."""
    if len(group[2]) == steps:
        return group
    return adapters.partial_batch_list(single_steps(group))


def first_step(group) -> tuple:
    """The batch of a group of one."""
    x, y, weights = group
    x, y = map_rows(lambda rows: rows[0], (x, y))
    if weights is ones(weights.shape):
        return x, y, ones(weights.shape[1:])
    return x, y, weights[0]


def without_padding(group, sizes):
    """The rows of all steps, one step behind the other, without padding."""
    longest = keras.tree.flatten(group)[0].shape[1]
    if (sizes == longest).all():
        return map_rows(lambda rows: rows.reshape(-1, *rows.shape[2:]), group)
    is_real = np.arange(longest) < sizes[:, None]
    return map_rows(lambda rows: rows[is_real], group)
