"""Functions of a model's weights, compiled with the weights as arguments."""

import jax
import keras


def compiled(model, function):
    """Returns `function`, compiled once for each shape of its arguments.

    The weights are arguments of the program, not constants in it, so that a
    large table is neither copied nor folded.

    Args:
        model: `keras.Model`, whose weights do not change their number.
        function: Reads weights of the model, and takes and returns arrays, or
            nested structures of them.
    """
    variables = model.variables

    @jax.jit
    def run(values, arguments):
        scope = keras.StatelessScope(
            state_mapping=list(zip(variables, values, strict=True))
        )
        with scope:
            return function(*arguments)

    def call(*arguments):
        return run([variable.value for variable in variables], arguments)

    return call
