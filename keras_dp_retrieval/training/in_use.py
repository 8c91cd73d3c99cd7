"""One thread trains, evaluates or predicts; any number of others may read.

While Keras trains on JAX the model has no weights: they are handed from one
compiled step to the next, which reuses their memory. Whoever reads them from
another thread finds None, or memory that is gone.
"""

import collections
import contextlib
import functools
import threading

from keras_dp_retrieval._keras.trainer import reattach_weights

_DOING = {
    "fit": "trained",
    "train_on_batch": "trained",
    "evaluate": "evaluated",
    "test_on_batch": "evaluated",
    "predict": "asked for predictions",
    "predict_on_batch": "asked for predictions",
}


class InUse:
    """Which thread has the weights of a model.

    One thread may run loops over data, which take the weights away, one inside
    the other: a callback of `fit` may call `evaluate`. Threads that read the
    weights may do so together, and while no other thread runs a loop; a loop
    waits for those that are reading when it begins.
    """

    def __init__(self):
        self._changed = threading.Condition()
        self._owner = None
        self._loops = []  # Of the owner, the innermost last.
        self._readers = collections.Counter()

    @contextlib.contextmanager
    def loop(self, method: str):
        """Takes the weights for a loop over data; yields whether it is inner.

        Raises:
            RuntimeError: If another thread runs a loop.
        """
        me = threading.get_ident()
        with self._changed:
            self.refuse_others(method)
            self._owner = me
            self._loops.append(method)
            while any(thread != me for thread in self._readers):
                self._changed.wait()
        try:
            yield len(self._loops) > 1
        finally:
            with self._changed:
                self._loops.pop()
                if not self._loops:
                    self._owner = None

    @contextlib.contextmanager
    def read(self, method: str):
        """Keeps loops from beginning; yields whether this is inside of one.

        Raises:
            RuntimeError: If another thread runs a loop.
        """
        me = threading.get_ident()
        with self._changed:
            self.refuse_others(method)
            self._readers[me] += 1
        try:
            yield self._owner == me
        finally:
            with self._changed:
                self._readers[me] -= 1
                if not self._readers[me]:
                    del self._readers[me]
                self._changed.notify_all()

    def refuse_others(self, method: str):
        """Raises a RuntimeError if another thread runs a loop."""
        with self._changed:  # The threads that hold it may enter again.
            if self._owner in (None, threading.get_ident()):
                return
            doing = self._loops[0]
        raise RuntimeError(
            f"`{method}` must wait until the model's weights are there. "
            f"Received: a call while the model is being "
            f"{_DOING[doing]} (`{doing}`) in another thread. Call it "
            "afterwards, in a callback of that call, or on a second model, "
            "such as one loaded from a file."
        )


def loops(method):
    """Marks a method of a `PaddedModel` that takes the weights away."""
    return _marked(method, InUse.loop)


def reads(method):
    """Marks a method of a `PaddedModel` that reads or changes the weights."""
    return _marked(method, InUse.read)


def _marked(method, use):
    @functools.wraps(method)
    def checked(self, *args, **kwargs):
        with use(self._in_use, method.__name__) as inside_a_loop:
            if inside_a_loop:
                # A callback of this thread's own loop: the weights are in the
                # last step's results.
                reattach_weights(self)
            return method(self, *args, **kwargs)

    return checked
