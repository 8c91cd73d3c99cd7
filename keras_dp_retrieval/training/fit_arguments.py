"""Checks of the arguments of `fit` that are no data."""

from keras_dp_retrieval import _checks


def check_validation_freq(epochs):
    """Raises unless it is a number of epochs, or a list of their numbers."""
    for number in epochs if isinstance(epochs, (list, tuple)) else [epochs]:
        _checks.positive_int("validation_freq", number)


def refuse_class_weight(class_weight):
    if class_weight is not None:
        raise ValueError(
            "`class_weight` has no meaning here: the targets are candidates, "
            "not classes. Received: a `class_weight`. Pass `sample_weight`, "
            "one weight for each row."
        )
