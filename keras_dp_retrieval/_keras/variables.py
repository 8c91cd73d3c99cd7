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


class Derived(keras.Variable):
    """A variable whose value follows from that of another one.

    A compiled step that assigns the other one assigns this one after it, which
    costs less than deriving it. After any other change, such as a file, new
    weights or an `assign` of a user's, it is derived when it is read next.

    Args:
        source: `keras.Variable`. May get another shape later on.
        derive: Callable from the source's value to this one's.
        shape, dtype, name: As in `keras.Variable`.
    """

    def __init__(self, source, derive, shape, dtype, name):
        self._source, self._derive = source, derive
        super().__init__(
            "zeros",
            shape=shape,
            dtype=dtype,
            trainable=False,
            autocast=False,
            name=name,
        )
        self._derived_from = None  # Not yet: it was given zeros.

    @property
    def value(self):
        value = super().value
        source = self._source._value
        # Inside a step, and while one runs, the values are elsewhere.
        is_here = value is self._value and source is not None
        # An array never changes, so that an assignment is another array.
        if is_here and self._derived_from is not source:
            self._direct_assign(self._derive(source))
            value = self._value
        return value

    def _direct_assign(self, value):
        super()._direct_assign(value)
        self._derived_from = self._source._value
