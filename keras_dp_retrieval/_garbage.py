"""Garbage collections left out where there is no garbage."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """No collection inside the block, as where modules are imported.

    Keras and TensorFlow make half a million objects, none of them garbage.
    Looking through them while they arise took 0.5 s of the 2.2 s of `import
    keras`, and 0.6 s of the 2 s of `import tensorflow`.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def freeze_more() -> None:
    """Freezes what there is by now, in a process that has frozen its heap.

    A search counts on a frozen heap (`tuning/frozen_heap.py`), and what was
    imported since the command began is not in it.
    """
    if gc.get_freeze_count():
        gc.freeze()
