"""The callbacks of a `fit`: the user's, with the model's own among them."""

import contextlib

import keras


def given(callbacks) -> list:
    """The callbacks that `fit` was given, in whatever form."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks.callbacks
    return keras.tree.flatten(callbacks or [])


@contextlib.contextmanager
def added(guard, own, callbacks, model, start, first=()):
    """Gives the callbacks of a `fit`, with the model's among them.

    The guard comes before all that judge or keep the weights, but behind what
    measures the time of the epoch, which it would otherwise be part of.

    Args:
        guard: Callback.
        own: list of callbacks of the model.
        callbacks: As `fit` was given them.
        model: The model.
        start: Where `fit` begins (`resumption.py`); it has callbacks too.
        first: Callbacks that come before all.
    """
    ready = isinstance(callbacks, keras.callbacks.CallbackList)
    users = given(callbacks)
    index = 0
    while index < len(users) and getattr(users[index], "_only_measures", False):
        index += 1
    judged = [*users[:index], guard, *users[index:], *own]
    every = [*first, *start.before, *judged, *start.after]
    if not ready:
        yield every
        return
    for callback in (*first, *start.before, guard, *own, *start.after):
        callback.set_model(model)
        callback.set_params(callbacks.params)
    callbacks.callbacks = every
    try:
        yield callbacks
    finally:
        callbacks.callbacks = users
