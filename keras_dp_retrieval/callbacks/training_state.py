"""What training changes: all variables, and the global random numbers."""

import random

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval._keras import seeds


def variables_of(model) -> list[keras.Variable]:
    """All that a step changes or reads, each once, in a fixed order.

    Weights, states of seed generators, slots, step counter and learning rate
    of the optimizer, and the sums of the metrics.
    """
    every = [
        *model.variables,
        *model.optimizer.variables,
        *model.metrics_variables,
    ]
    return list({id(variable): variable for variable in every}.values())


def described(variables) -> list:
    """Shape and type of each, in JSON."""
    return [
        [list(variable.shape), keras.backend.standardize_dtype(variable.dtype)]
        for variable in variables
    ]


def values(variables) -> dict[str, np.ndarray]:
    """The values by name; on CPUs without a copy, until the next step."""
    return {
        f"variable_{number}": np.asarray(ops.convert_to_numpy(variable.value))
        for number, variable in enumerate(variables)
    }


def set_values(variables, arrays) -> None:
    """Sets the variables to what `values` returned."""
    for number, variable in enumerate(variables):
        variable.assign(arrays[f"variable_{number}"])


def random_state() -> dict:
    """The state of all global random numbers: Python's, NumPy's, Keras'."""
    variable = seeds.global_state_of_seeds()
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "keras": None if variable is None else ops.convert_to_numpy(variable),
    }


def set_random_state(state: dict) -> None:
    """Goes on with what `random_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    if state["keras"] is not None:
        seeds.set_global_state_of_seeds(state["keras"])
