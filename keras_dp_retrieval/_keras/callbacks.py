"""Private parts of `keras.callbacks.Callback`.

Of `keras/src/callbacks/callback.py`.
"""


def model_of(callback):
    """The model of a callback, as it is, without reattaching its weights.

    The public `Callback.model` first gives the variables their values again,
    which takes longer than many a step. Goes when Keras has a property that
    does not.
    """
    return callback._model
