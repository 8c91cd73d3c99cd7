"""Private parts of layers: sublayers, tables, and losses they add.

All names but one are of `keras/src/layers/layer.py`.
"""

import contextlib

import keras

# Only the scope in effect can tell which losses layers add while a step is
# traced, and `keras.StatelessScope` has no public way to find it
# (keras/src/backend/common/stateless_scope.py). Goes when `compute_loss` of
# Keras keeps the losses of layers that are called in it.
from keras.src.backend.common.stateless_scope import get_stateless_scope


def sublayers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """A layer and all layers below it, each once.

    `Model.layers` is public, but has only the layers just below a model, and
    layers have no such list at all. Goes when Keras exports a walk.
    """
    return layer._flatten_layers()


def own_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The variables that a layer made itself, without those of sublayers.

    `Layer.variables` has those of the sublayers too.
    """
    return layer._trainable_variables + layer._non_trainable_variables


def embedding_table(layer: keras.layers.Embedding) -> keras.Variable:
    """The variable of an `Embedding`.

    `Embedding.embeddings` is public, but computes a tensor where the layer
    has LoRA weights or is quantized (keras/src/layers/core/embedding.py).
    """
    return layer._embeddings


def is_stateless() -> bool:
    """Whether variables have other values for now, as while Keras traces."""
    return get_stateless_scope() is not None


def takes_training(layer) -> bool:
    """Whether a layer's `call` has the argument `training`.

    Keras has looked at the signature already, and what it decided is what
    counts. A callable that is no layer has no such argument.
    """
    return getattr(layer, "_call_has_training_arg", False)


@contextlib.contextmanager
def added_losses(layer: keras.layers.Layer):
    """Gives the list of what `layer` adds to the loss inside the block.

    That is `add_loss` and activity regularizers; the list is filled at its
    end, and nobody else counts them. Keras itself drops what layers add that
    are called in `compute_loss`; it gathers losses in `Layer._losses`, and
    while a step is traced in `StatelessScope.losses`.
    """
    added: list = []
    scope = get_stateless_scope()
    if scope is None:
        before = [(one, list(one._losses)) for one in sublayers(layer)]
        for one, _ in before:
            one._losses.clear()
        try:
            yield added
            for one, _ in before:
                added.extend(one._losses)
        finally:
            for one, losses in before:
                one._losses[:] = losses
        return
    outer = scope.collect_losses, scope.losses
    scope.collect_losses, scope.losses = True, []
    try:
        yield added
        added.extend(scope.losses)
    finally:
        scope.collect_losses, scope.losses = outer
