"""What loops over batches say: to the user, and to the other processes."""

import keras

from keras_dp_retrieval import distribution
from keras_dp_retrieval.processes.whereabouts import SayWhere


def verbosity(verbose):
    """The argument `verbose`, and 0 in all processes but number 0.

    The figures are those of all processes, so one prints them.
    """
    return verbose if distribution.process_index() == 0 else 0


def with_whereabouts(callbacks, doing: str):
    """The callbacks of a loop, and one that says how far it has come.

    Args:
        callbacks: As in `evaluate`. A `CallbackList` is that of a `fit`, which
            has one.
        doing: str. The method that runs the loop.
    """
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    return [*whereabouts(doing), *keras.tree.flatten(callbacks or [])]


def whereabouts(doing: str) -> list:
    """The callback that says it, where there is somebody to hear it."""
    return [SayWhere(doing)] if distribution.process_count() > 1 else []
