"""Python's random numbers, from which Keras draws its seeds."""

import contextlib
import random
from collections.abc import Iterator


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Gives Python's random numbers back as they were.

    TensorFlow draws some while it is imported. Where that is done late, the
    first model after `keras.utils.set_random_seed` would be another one than
    the second.
    """
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
