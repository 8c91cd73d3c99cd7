"""SIGTERM: a scheduler asks the process to end, and soon kills it."""

import signal
import threading

from keras_dp_retrieval.callbacks.call_stack import is_running

# What a shell and a scheduler see of a process that a SIGTERM ended: 128 + 15.
EXIT_CODE = 128 + signal.SIGTERM


class StopSignal:
    """Notes a SIGTERM while it is entered, instead of ending the process.

    A second one does what it did before, and so does one that comes after a
    `fit` that broke off without leaving this, and one that was noted and not
    asked for before `fit` ended, when it has ended. Handlers can be set in the
    main thread alone: in another one nothing is noted.

    Args:
        fit: Code object that must be running, or None.
    """

    exit_code = EXIT_CODE

    def __init__(self, fit=None):
        self.received = False
        self._fit = fit
        self._before = None
        self._is_set = False

    def __enter__(self):
        self._is_set = threading.current_thread() is threading.main_thread()
        if self._is_set:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, kind=None, *error):
        self._restore()
        if self.received and kind is None:  # Too late for `fit` to hear of it.
            signal.raise_signal(signal.SIGTERM)

    def _note(self, number, frame):
        self._restore()
        if is_running(self._fit, frame):
            self.received = True
        else:
            signal.raise_signal(number)

    def _restore(self):
        if self._is_set:
            self._is_set = False
            # None: set by something that is not Python's, as `signal` has it.
            signal.signal(
                signal.SIGTERM,
                signal.SIG_DFL if self._before is None else self._before,
            )
