"""Private parts of `keras.Variable`.

All names are of `keras/src/backend/common/variables.py`.
"""

import keras


def reshape(variable: keras.Variable, shape: tuple, tensor) -> None:
    """Gives a variable another shape and value, in place.

    Layers, models and optimizers know their variables by identity and order,
    so that a longer table must be the same object. `Variable.assign` refuses
    another shape. Goes when Keras can grow an `Embedding`.
    """
    variable._shape = shape
    variable._initialize(tensor)


def is_detached(variable: keras.Variable) -> bool:
    """Whether the variable's value is elsewhere, in a running step's state.

    `Trainer.fit` on JAX sets `_value` to None while it runs; the public
    `Variable.value` then fails.
    """
    return variable._value is None
