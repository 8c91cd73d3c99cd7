"""Keras' global random numbers, what `keras.random` draws without a seed.

Of `keras/src/random/seed_generator.py` and `keras/src/utils/rng_utils.py`.
Layers have seed generators of their own, which are among `model.variables`.
"""

import random
import sys

import keras
import numpy as np
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import (
    GLOBAL_SEED_GENERATOR,
    global_seed_generator,
)
from keras.src.utils.rng_utils import GLOBAL_RANDOM_SEED


def global_state_of_seeds():
    """The variable that holds the state; None while nothing was drawn."""
    generator = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    return None if generator is None else generator.state


def set_global_state_of_seeds(value) -> None:
    """Goes on with what was drawn up to there; `value` is `(2,)`."""
    global_seed_generator().state.assign(value)


def set_random_seed(seed: int) -> None:
    """As `keras.utils.set_random_seed`, which imports TensorFlow for it.

    That takes 3 seconds. It is seeded here only if it has been imported.
    """
    if keras.backend.backend() != "jax" or "tensorflow" in sys.modules:
        keras.utils.set_random_seed(seed)
        return
    global_state.set_global_attribute(GLOBAL_RANDOM_SEED, seed)
    # Made again from the seed when it is needed.
    global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, None)
    random.seed(seed)
    np.random.seed(seed)
