"""Keras' global random numbers, what `keras.random` draws without a seed.

Of `keras/src/random/seed_generator.py`. Layers have seed generators of their
own, which are among `model.variables`.
"""

from keras.src.backend.common import global_state
from keras.src.random.seed_generator import (
    GLOBAL_SEED_GENERATOR,
    global_seed_generator,
)


def global_state_of_seeds():
    """The variable that holds the state; None while nothing was drawn."""
    generator = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    return None if generator is None else generator.state


def set_global_state_of_seeds(value) -> None:
    """Goes on with what was drawn up to there; `value` is `(2,)`."""
    global_seed_generator().state.assign(value)
