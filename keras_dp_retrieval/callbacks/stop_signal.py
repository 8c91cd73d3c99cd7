"""SIGTERM: a scheduler asks the process to end, and soon kills it."""

import signal
import threading

# What a shell and a scheduler see of a process that a SIGTERM ended: 128 + 15.
EXIT_CODE = 128 + signal.SIGTERM


class StopSignal:
    """Notes a SIGTERM while it is entered, instead of ending the process.

    A second one does what it did before. Handlers can be set in the main
    thread alone: in another one nothing is noted.
    """

    exit_code = EXIT_CODE

    def __init__(self):
        self.received = False
        self._before = None
        self._is_set = False

    def __enter__(self):
        self._is_set = threading.current_thread() is threading.main_thread()
        if self._is_set:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *error):
        self._restore()

    def _note(self, number, frame):
        self.received = True
        self._restore()

    def _restore(self):
        if self._is_set:
            self._is_set = False
            # None: set by something that is not Python's, as `signal` has it.
            signal.signal(
                signal.SIGTERM,
                signal.SIG_DFL if self._before is None else self._before,
            )
