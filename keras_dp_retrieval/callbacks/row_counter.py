"""Counts the real rows of batches without making the host wait for them."""

import collections

import keras
import numpy as np

from keras_dp_retrieval.data.columns import may_change

# Weights on devices are kept until they are counted together; this many bytes
# of them, lest an endless epoch fills the memory.
MOST_BYTES_KEPT = 16_000_000


class RowCounter:
    """Rows whose sample weight is not 0, in all and by device.

    Weights in NumPy are counted at once: their memory may be used again for
    the next batch. To read weights on devices takes longer, and is put off to
    the end of the epoch, off the path of the steps. They exist as soon as they
    reached the device: no step is waited for.
    """

    def __init__(self):
        # Batches without weights that follow each other and are alike.
        self._shape = self._sharding = self._step_axis = None
        self._alike = 0
        # An array of NumPy that is the weights of batch after batch.
        self._frozen = None
        self._frozen_steps = self._frozen_rows = self._times_frozen = 0
        self._weights = []
        self._most_kept = 0
        self.total = 0.0
        self.by_device = collections.Counter()

    def add(self, batch, step_axis: int | None = None) -> int:
        """Takes note of a batch and returns how many steps it makes.

        Args:
            batch: What the iterator gave.
            step_axis: Which axis of its arrays counts the steps, where the
                batch is a group of fused steps: 0 of `(steps, rows, ...)`, 1
                of `(rows, steps, ...)`. None where it is one step's.
        """
        # Every step comes by here: hence no `unpack_x_y_sample_weight`.
        if type(batch) is not tuple:
            batch = keras.utils.unpack_x_y_sample_weight(batch)
        if len(batch) > 2 and batch[2] is not None:
            return self._add_weighted(batch[2], step_axis)
        x = batch[0]
        if type(x) is np.ndarray:
            shape, sharding = x.shape, None
        else:
            x = x if hasattr(x, "shape") else _first_array(x)
            shape, sharding = x.shape, _sharding(x)
        if len(shape) < 2:  # One step, as in `train_on_batch`.
            step_axis = None
        # To hash a sharding takes longer than all else that a step costs.
        if (
            sharding is not self._sharding
            or shape != self._shape
            or step_axis != self._step_axis
        ):
            self._count_alike()
            self._shape, self._sharding = shape, sharding
            self._step_axis = step_axis
        self._alike += 1
        return 1 if step_axis is None else shape[step_axis]

    def _add_weighted(self, weights, step_axis) -> int:
        if weights is self._frozen:
            self._times_frozen += 1
            return self._frozen_steps
        weights = _arrays(weights)
        shape = weights[0].shape
        fused = step_axis is not None and len(shape) > 1
        steps = shape[step_axis] if fused else 1
        if not all(type(array) is np.ndarray for array in weights):
            self._keep(weights, fused)
        elif not weights[1:] and not may_change(weights[0]):
            # It need not be counted each time.
            self._count_frozen()
            self._frozen, self._frozen_steps = weights[0], steps
            self._frozen_rows = real_rows([weights[0][None]], fused)
            self._times_frozen = 1
        else:
            rows = real_rows([array[None] for array in weights], fused)
            self._add(None, rows, True)
        return steps

    def _keep(self, weights, fused):
        if not self._weights:
            size = sum(array.nbytes for array in weights)
            self._most_kept = MOST_BYTES_KEPT // max(size, 1)
        self._weights.append((weights, fused))
        if len(self._weights) > self._most_kept:
            self._count_weights()

    def fold(self):
        """Counts what has been noted since the last time."""
        self._count_weights()
        self._count_alike()
        self._count_frozen()

    def _count_frozen(self):
        self._add(None, self._frozen_rows * self._times_frozen, True)
        self._times_frozen = 0

    def _count_alike(self):
        if self._alike:
            from keras_dp_retrieval._jax import devices

            axis, times = 0, self._alike
            if self._step_axis is not None:
                axis = 1 - self._step_axis
                times *= self._shape[self._step_axis]
            for name, rows, is_first_copy in devices.rows_on_devices(
                self._shape, self._sharding, axis
            ):
                self._add(name, rows * times, is_first_copy)
        self._alike = 0

    def _count_weights(self):
        from keras_dp_retrieval._jax import devices

        alike = collections.defaultdict(list)
        for weights, fused in self._weights:
            kinds = [(a.shape, id(_sharding(a))) for a in weights]
            alike[fused, *kinds].append(weights)
        for (fused, *_), batches in alike.items():
            # For each output, its arrays of all batches, device by device.
            outputs = [
                devices.parts_on_devices(arrays)
                for arrays in zip(*batches, strict=True)
            ]
            for parts in zip(*outputs, strict=True):
                name, _, is_first_copy = parts[0]
                rows = real_rows([part for _, part, _ in parts], fused)
                self._add(name, rows, is_first_copy)
        self._weights.clear()

    def _add(self, device, rows, is_first_copy):
        self.by_device[device] += rows
        self.total += rows * is_first_copy


def real_rows(weights, fused: bool) -> int:
    """Rows with a weight other than 0 in any output.

    Args:
        weights: Arrays `(batches, rows, ...)`, or of fused steps `(batches,
            steps, rows, ...)` with the steps before or behind the rows. The
            weights of a row's positions behind make one row.
        fused: bool. Whether they are of fused steps.
    """
    real = 0
    rows_end = 3 if fused else 2
    for array in weights:
        array = array != 0
        if array.ndim > rows_end:
            array = array.any(axis=tuple(range(rows_end, array.ndim)))
        real = array | real
    return int(np.count_nonzero(real))


def _arrays(tree) -> list:
    if hasattr(tree, "shape"):
        return [tree]
    return [leaf for leaf in keras.tree.flatten(tree) if leaf is not None]


def _first_array(tree):
    """The leaf whose leading axis Keras takes for the rows."""
    return next(leaf for leaf in keras.tree.flatten(tree) if leaf is not None)


def _sharding(array):
    """On which devices an array is; None for an array of NumPy."""
    return getattr(array, "sharding", None)
