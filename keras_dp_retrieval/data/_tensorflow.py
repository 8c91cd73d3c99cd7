"""The door to TensorFlow, which here only feeds data."""

import contextlib
import os
import sys

from keras_dp_retrieval import _garbage, _random_state

_starts_quietly = False


def start_quietly() -> None:
    """Keeps what TensorFlow will say of missing GPUs out of the output.

    It writes before its own log level counts. For a program's own process.
    """
    global _starts_quietly
    _starts_quietly = True


def import_tensorflow():
    """Returns the tensorflow module, kept away from the GPUs.

    Imported where it is used, as it takes seconds.
    """
    if _starts_quietly and "tensorflow" not in sys.modules:
        with _nothing_on_stderr():
            # It speaks again when it is first used.
            _import().constant(0)
        _garbage.freeze_more()
    return _import()


def _import():
    with _random_state.kept(), _garbage.paused():
        import tensorflow as tf

    # Otherwise TensorFlow takes the memory that JAX trains in.
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        pass  # TensorFlow is already running: its devices are settled.
    return tf


@contextlib.contextmanager
def _nothing_on_stderr():
    """Also of what is not written by Python."""
    stderr = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def as_dataset(make_iterator, example):
    """Returns a `tf.data.Dataset` of what an iterator yields.

    Args:
        make_iterator: Function without arguments; called once for a pass.
        example: One batch, nested NumPy arrays `(batch, ...)`. All others
            differ at most in their number of rows.
    """
    tf = import_tensorflow()

    def spec(rows):
        if rows is None:
            return tf.NoneTensorSpec()
        return tf.TensorSpec((None, *rows.shape[1:]), rows.dtype)

    return tf.data.Dataset.from_generator(
        make_iterator, output_signature=tf.nest.map_structure(spec, example)
    )


def can_stack(dataset) -> bool:
    """Whether batches differ at most in their number of rows."""
    tf = import_tensorflow()
    specs = tf.nest.flatten(dataset.element_spec)
    return isinstance(dataset, tf.data.Dataset) and all(
        isinstance(spec, tf.TensorSpec)
        and spec.shape.rank
        and spec.shape[1:].is_fully_defined()
        for spec in specs
    )


def stack(dataset, steps: int):
    """Stacks batches in TensorFlow: one element costs Python as much as many.

    Returns:
        A `tf.data.Dataset` of `(batches, sizes)`: arrays of shape `(steps,
        longest, ...)`, with anything behind the rows that a batch has, and
        `(steps,)`, how many these are. The last element of a pass may have
        fewer steps.
    """
    tf = import_tensorflow()

    def with_size(*batch):
        return batch, tf.shape(tf.nest.flatten(batch)[0])[0]

    # Every batch of this shape has the same rows, and is copied but once.
    fixed = all(
        spec.shape.is_fully_defined()
        for spec in tf.nest.flatten(dataset.element_spec)
    )
    dataset = dataset.map(with_size)
    return dataset.batch(steps) if fixed else dataset.padded_batch(steps)
