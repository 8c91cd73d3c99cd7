"""What other callbacks remember, from their hooks of one `fit`."""

import warnings

import keras

from keras_dp_retrieval._keras.callbacks import REMEMBERED
from keras_dp_retrieval.callbacks.retrieval_metrics import RetrievalMetrics
from keras_dp_retrieval.callbacks.shuffle_ties import ShuffleTies
from keras_dp_retrieval.warning_categories import ResumeWarning

# What these do depends on the epoch, the logs and the weights alone.
STATELESS = (
    keras.callbacks.BackupAndRestore,
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TerminateOnNaN,
    RetrievalMetrics,
    ShuffleTies,
)


def states(callbacks) -> list:
    """Returns `[[name of the class, state], ...]` of those that have any."""
    found = [[type(one).__name__, _state_of(one)] for one in callbacks]
    return [[name, state] for name, state in found if state]


def set_states(callbacks, saved: list) -> None:
    """Gives the callbacks what `states` returned, by class and order.

    Warns of those that there was none for, and that are gone.
    """
    left = list(saved)
    new = []
    for callback in callbacks:
        name = type(callback).__name__
        mine = next((one for one in left if one[0] == name), None)
        if mine is None:
            if _state_of(callback):
                new.append(name)
            continue
        left.remove(mine)
        if hasattr(callback, "set_state"):
            callback.set_state(mine[1])
            continue
        for attribute, value in mine[1].items():
            setattr(callback, attribute, value)
    gone = [name for name, _ in left]
    if new or gone:
        warnings.warn(
            "A run that is resumed should have the callbacks that it began "
            f"with. New are {new}, which begin anew; gone are {gone}.",
            ResumeWarning,
            stacklevel=2,
        )


def warn_of_forgetful(callbacks) -> None:
    """Names the callbacks whose state is not known, in one warning."""
    names = sorted(
        {
            type(callback).__name__
            for callback in callbacks
            if type(callback) not in (*REMEMBERED, *STATELESS)
            and not hasattr(callback, "get_state")
        }
    )
    if names:
        warnings.warn(
            "`ResumeTraining` does not know what these callbacks remember, and "
            f"keeps nothing of it: {', '.join(names)}. Where that matters, "
            "give them `get_state()`, which returns numbers, texts and "
            "arrays, and `set_state(state)`.",
            ResumeWarning,
            stacklevel=2,
        )


def _state_of(callback) -> dict:
    """What a callback remembers; empty if that is nothing, or not known."""
    if hasattr(callback, "get_state"):
        return callback.get_state()
    for kind, attributes in REMEMBERED.items():
        if isinstance(callback, kind):
            return {
                name: getattr(callback, name)
                for name in attributes
                if hasattr(callback, name)
            }
    return {}
