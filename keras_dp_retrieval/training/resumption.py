"""Where a `fit` begins: at its first epoch, or where a killed one ended.

A callback cannot say so: Keras asks for the epoch before it calls the first
of them. So `fit` looks for one with the method `resumed_fit`, as
`ResumeTraining` has, and asks it.
"""

import contextlib
import warnings

import keras

from keras_dp_retrieval.warning_categories import ResumeWarning


class FromTheStart:
    """What a `fit` that is not resumed begins with.

    Attributes:
        initial_epoch: int. As in `fit`.
        before: Callbacks that come before all others.
        after: Callbacks that come behind all others.
    """

    before: tuple = ()
    after: tuple = ()

    def __init__(self, initial_epoch: int):
        self.initial_epoch = initial_epoch

    def epochs_made(self, epochs) -> None:
        """Called with what counts the steps of `fit`."""


class Starts:
    """Where the `fit` that is running began; one may run inside another."""

    def __init__(self):
        self.running: list = []

    def epochs_made(self, epochs) -> None:
        """Tells the innermost."""
        if self.running:
            self.running[-1].epochs_made(epochs)


@contextlib.contextmanager
def start(model, batches, callbacks, *, epochs, initial_epoch, steps_per_epoch):
    """Gives where a `fit` begins.

    Args:
        model: `PaddedModel`, built.
        batches: `PaddedBatches` that it is trained on.
        callbacks: list. The user's.
        epochs: As in `fit`, and the next two.
        initial_epoch: int.
        steps_per_epoch: Optional int.

    Raises:
        ValueError: If several callbacks say where.
    """
    resuming = [c for c in callbacks if hasattr(c, "resumed_fit")]
    if len(resuming) > 1:
        raise ValueError(
            "One `ResumeTraining` saves a `fit`. Received: "
            f"{len(resuming)} of them. Leave one."
        )
    if not resuming:
        _warn_of_backup(callbacks)
        found = FromTheStart(initial_epoch)
        context = contextlib.nullcontext(found)
    else:
        context = found = resuming[0].resumed_fit(
            model,
            batches,
            [c for c in callbacks if c is not resuming[0]],
            epochs=epochs,
            initial_epoch=initial_epoch,
            has_length=bool(steps_per_epoch or batches.num_batches),
        )
    running = model._starts.running
    running.append(found)
    try:
        with context:
            yield found
    finally:
        running.remove(found)


def _warn_of_backup(callbacks) -> None:
    """Says what Keras' own callback does not restore."""
    kind = keras.callbacks.BackupAndRestore
    if any(isinstance(callback, kind) for callback in callbacks):
        warnings.warn(
            "`BackupAndRestore` resumes another training than the one that "
            "was interrupted: the order of the data begins with that of the "
            "first epoch, and metrics, other callbacks and the position "
            "within an epoch are lost. `keras_dp_retrieval.ResumeTraining` "
            "restores them all.",
            ResumeWarning,
            stacklevel=4,
        )
