"""Private parts of `keras.callbacks`.

Of `keras/src/callbacks/`.
"""

import keras

# What Keras' callbacks remember, names with and without an underscore. They
# have no method that returns it; this goes when they do.
REMEMBERED: dict[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: (
        "best",
        "best_epoch",
        "best_weights",
        "stopped_epoch",
        "wait",
    ),
    keras.callbacks.History: ("epoch", "history"),
    keras.callbacks.ModelCheckpoint: (
        "best",
        "_batches_seen_since_last_saving",
        "_current_epoch",
        "_last_batch_seen",
    ),
    keras.callbacks.ReduceLROnPlateau: ("best", "cooldown_counter", "wait"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
}


def model_of(callback):
    """The model of a callback, as it is, without reattaching its weights.

    The public `Callback.model` first gives the variables their values again,
    which takes longer than many a step. Goes when Keras has a property that
    does not.
    """
    return callback._model
