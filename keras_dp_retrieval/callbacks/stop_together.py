"""After a SIGTERM all processes stop before the same step.

They are steps apart, as none waits for the devices, and one that stopped early
would leave the others waiting inside a step. So whoever is told to end tells
all, by the key-value store of JAX's coordination service, and a thread of each
process answers at which border between two steps it is: also while its main
thread waits for the others. All stop at the border behind the furthest. JAX's
own `reached_preemption_sync_point` does the same, but needs a service that
keeps programs without it from ending (`_jax/runtime.py`).
"""

import itertools
import threading
from typing import NoReturn

from keras_dp_retrieval import distribution
from keras_dp_retrieval.callbacks.stop_signal import StopSignal
from keras_dp_retrieval.processes.endings import AgreedExit
from keras_dp_retrieval.processes.words import say

# How long the other processes may take to answer. Their threads do so at once.
SECONDS = 10.0

_fits = itertools.count()


class StopTogether:
    """Says at which border between two steps to stop, while it is entered.

    Args:
        fit: As in `StopSignal`.
    """

    def __init__(self, fit=None):
        self._signal = StopSignal(fit)
        self._count = distribution.process_count()
        self._folder = f"keras_dp_retrieval/stop/{next(_fits)}"
        self._changed = threading.Condition()
        self._border = 0
        self._has_asked = self._is_agreeing = self._is_over = False
        self._stop_at: int | None = None

    def __enter__(self):
        self._signal.__enter__()
        if self._count > 1:
            threading.Thread(target=self._answer, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._is_over = True
        self._signal.__exit__(*error)

    def end_process(self, run) -> NoReturn:
        """Ends the program, with the code that schedulers expect.

        Args:
            run: `Run`, which was saved.
        """
        # Another process may still need what this one's devices have to do.
        run.wait()
        code = self._signal.exit_code
        say(
            "SIGTERM: saved, and stopped. The same command goes on from "
            f"there. Exit code {code}."
        )
        raise AgreedExit(code)

    def here(self) -> bool:
        """Whether to stop at this border, to be asked at every one."""
        if self._count == 1:
            return self._signal.received
        if self._signal.received and not self._has_asked:
            self._has_asked = True
            self._post("asked", 0, 0)
        with self._changed:
            self._border += 1
            # While it is counted, nobody passes a border.
            self._changed.wait_for(lambda: not self._is_agreeing, SECONDS)
            return self._stop_at is not None and self._border >= self._stop_at

    def _answer(self):
        """Runs in a thread of its own until `fit` is over."""
        while not self._is_over:
            if self._read("asked", 0, seconds=1.0) is not None:
                self._agree()
                return

    def _agree(self):
        with self._changed:
            self._is_agreeing = True
            mine = self._border
        self._post("border", distribution.process_index(), mine)
        borders = [
            self._read("border", process, SECONDS)
            for process in range(self._count)
        ]
        with self._changed:
            if None not in borders:
                self._stop_at = max(map(int, borders)) + 1
            self._is_agreeing = False
            self._changed.notify_all()

    def _post(self, what: str, process: int, value: int) -> None:
        from keras_dp_retrieval._jax import processes

        client = processes.store()
        processes.post(client, f"{self._folder}/{what}/{process}", str(value))

    def _read(self, what: str, process: int, seconds: float) -> str | None:
        from keras_dp_retrieval._jax import processes

        client = processes.store()
        key = f"{self._folder}/{what}/{process}"
        return processes.read(client, key, seconds)
