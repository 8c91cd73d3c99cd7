"""Private parts of Keras' random numbers in several processes.

Of `keras/src/backend/jax/distribution_lib.py` and
`keras/src/utils/rng_utils.py`.
"""


def agree_on_seed() -> None:
    """Gives all processes one seed, unless this one was given its own.

    `keras.distribution.initialize` does it behind `jax.distributed.initialize`,
    whose time limits it has no arguments for.
    """
    from keras.src.backend.jax.distribution_lib import initialize_rng

    initialize_rng()


def seed_in_use() -> int | None:
    """What `keras.utils.set_random_seed` was given last, None if nothing."""
    from keras.src.utils import rng_utils

    return rng_utils.get_random_seed()
