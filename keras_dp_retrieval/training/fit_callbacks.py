"""The callbacks of a `fit`: the user's, with the model's own among them."""

import contextlib

import keras


@contextlib.contextmanager
def added(guard, own, callbacks, model):
    """Gives the callbacks of a `fit`, with the model's among them.

    The guard comes before all that judge or keep the weights, but behind what
    measures the time of the epoch, which it would otherwise be part of.
    """
    ready = isinstance(callbacks, keras.callbacks.CallbackList)
    given = (
        callbacks.callbacks if ready else keras.tree.flatten(callbacks or [])
    )
    index = 0
    while index < len(given) and getattr(given[index], "_only_measures", False):
        index += 1
    every = [*given[:index], guard, *given[index:], *own]
    if not ready:
        yield every
        return
    for callback in (guard, *own):
        callback.set_model(model)
        callback.set_params(callbacks.params)
    callbacks.callbacks = every
    try:
        yield callbacks
    finally:
        callbacks.callbacks = given
