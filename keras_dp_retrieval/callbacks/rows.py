"""Counts the real rows of batches without making the host wait for them."""

import collections

import keras
import numpy as np

# Weights are kept until they are counted together; this many bytes of them,
# lest an endless epoch fills the memory.
MOST_BYTES_KEPT = 16_000_000
MOST_RUNS_KEPT = 1000


class RowCounter:
    """Rows whose sample weight is not 0, in all and by device.

    Counting reads the sample weights, which exist as soon as they reached the
    device: no step is waited for. Even so it is put off to the end of the
    epoch, off the path of the steps.
    """

    def __init__(self):
        self._runs = []  # [shape, sharding, how many batches in a row]
        self._weights = []
        self._bytes = 0
        self.total = 0.0
        self.by_device = collections.Counter()

    def add(self, batches, fused: bool) -> int:
        """Takes note of batches and returns how many steps they make.

        Args:
            batches: What the iterator gave for one call of the train
                function.
            fused: bool. Whether one batch holds several steps' rows, with
                leaves `(rows, steps, ...)`, instead of one step's.
        """
        steps = len(batches)
        for batch in batches:
            x, weights = _inputs_and_weights(batch)
            if weights is not None:
                weights = _arrays(weights)
                fused_here = fused and len(weights[0].shape) == 2
                self._keep(weights, fused_here)
                if fused_here:
                    steps += weights[0].shape[1] - 1
            else:
                x = x if hasattr(x, "shape") else _first_array(x)
                self._count_batch(x.shape, getattr(x, "sharding", None))
        return steps

    def _keep(self, weights, fused):
        self._weights.append((weights, fused))
        self._bytes += sum(array.nbytes for array in weights)
        if self._bytes > MOST_BYTES_KEPT:
            self._count_weights()

    def _count_batch(self, shape, sharding):
        # To hash a sharding takes longer than all else that a step costs.
        run = self._runs[-1] if self._runs else (None, None)
        if run[1] is sharding and run[0] == shape:
            run[2] += 1
        else:
            if len(self._runs) >= MOST_RUNS_KEPT:
                self._count_runs()
            self._runs.append([shape, sharding, 1])

    def fold(self):
        """Counts what has been noted since the last time."""
        self._count_weights()
        self._count_runs()

    def _count_runs(self):
        batches = collections.Counter()
        for shape, sharding, count in self._runs:
            batches[shape, sharding] += count
        for (shape, sharding), count in batches.items():
            self._count_shape(shape, sharding, count)
        self._runs.clear()

    def _count_weights(self):
        from keras_dp_retrieval._jax import devices

        for weights, fused in self._weights:
            parts = [devices.parts_on_devices(array) for array in weights]
            for outputs in zip(*parts, strict=True):
                name, _, is_first_copy = outputs[0]
                rows = _real_rows([part for _, part, _ in outputs], fused)
                self.by_device[name] += rows
                self.total += rows * is_first_copy
        self._weights.clear()
        self._bytes = 0

    def _count_shape(self, shape, sharding, batches):
        from keras_dp_retrieval._jax import devices

        for name, rows, is_first_copy in devices.rows_on_devices(
            shape, sharding
        ):
            self.by_device[name] += rows * batches
            self.total += rows * batches * is_first_copy


def _real_rows(weights, fused: bool) -> int:
    """Rows with a weight other than 0 in any output.

    Weights per position, `(rows, positions)`, make one row each; in a fused
    batch every position is a row of its own.
    """
    real = 0
    for array in weights:
        array = np.asarray(array) != 0
        if not fused and array.ndim > 1:
            array = array.any(axis=tuple(range(1, array.ndim)))
        real = array | real
    return int(np.count_nonzero(real))


def _inputs_and_weights(batch):
    """As `keras.utils.unpack_x_y_sample_weight`; every step calls this."""
    if type(batch) is tuple and len(batch) > 1:
        return batch[0], batch[2] if len(batch) > 2 else None
    x, _, weights = keras.utils.unpack_x_y_sample_weight(batch)
    return x, weights


def _arrays(tree) -> list:
    if hasattr(tree, "shape"):
        return [tree]
    return [leaf for leaf in keras.tree.flatten(tree) if leaf is not None]


def _first_array(tree):
    """The leaf whose leading axis Keras takes for the rows."""
    return next(leaf for leaf in keras.tree.flatten(tree) if leaf is not None)
