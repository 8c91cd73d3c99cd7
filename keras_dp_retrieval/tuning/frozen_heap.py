"""Short garbage collections while a search runs."""

import contextlib
import gc


@contextlib.contextmanager
def frozen_heap():
    """Takes what exists already out of garbage collection inside the block.

    KerasTuner collects garbage twice a trial, through `clear_session` and by
    itself. To look through the modules of JAX, Keras and TensorFlow each time
    takes most of a short trial's time.
    """
    if gc.get_freeze_count():
        yield  # The user has done so, and thaws what is frozen.
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
