"""Processes that train together tell each other how they are doing.

A process waits inside a collective for as long as the slowest one takes, and
for ever if that one is stuck: nothing that runs on the devices can say so. So
each process has a thread that posts how far its main thread has come, and
reads how far the others are. The notes go through the coordination service
(see `_jax/processes.py`), which works while the devices wait.

Who takes part is not known beforehand: the callback may have been given to
some processes alone. So each says that it is here when its `fit` begins, and
nobody waits for one that did not. Processes that take their steps together
have all begun before the first epoch ends.
"""

import itertools
import json
import logging
import sys
import threading
import time

from keras_dp_retrieval.callbacks.call_stack import (
    calling_code,
    is_running,
)
from keras_dp_retrieval.processes.farewell import say_farewell
from keras_dp_retrieval.processes.stall_observer import (
    StallObserver,
    end_process,
)

logger = logging.getLogger("keras_dp_retrieval")

_ROOT = "keras_dp_retrieval"

# Every process counts its own calls of `fit`, says which one it is in, and
# leaves its notes under that number: those of one `fit` never meet another's.
_fits = itertools.count()


class Peers:
    """The processes of one `fit`, seen from this one.

    Args:
        index: int. The number of this process.
        count: int. How many there are.
        stalled_seconds: float. How long without progress is a stall, and how
            long an epoch's end waits for the others' notes.
        place: Callable that returns `(progress, where)`: a count that grows
            with everything the main thread does, and words for where it is.
        on_stall: Callable that is given a stall's description, a dict. Runs
            in the thread.
        when_stalled: `"report"`, or `"abort"`, which ends all processes that
            have it so, after `on_stall`.
        started_at: int. Steps that the model had taken before, which all
            processes of one `fit` agree on: tells this `fit` from another one
            that broke off elsewhere.
        client: Optional store, for tests.
        end: Callable that ends this process.
    """

    def __init__(
        self,
        index,
        count,
        stalled_seconds,
        place,
        on_stall,
        when_stalled="report",
        started_at=0,
        client=None,
        end=end_process,
    ):
        from keras_dp_retrieval._jax import processes

        self._store = processes
        if client is None and count > 1:
            client = processes.store()
        self._client = client
        self._index = index
        self._seconds = stalled_seconds
        self._place = place
        self._on_stall = on_stall
        self._when_stalled = when_stalled
        self._end = end
        self._started_at = started_at
        self._farewells = f"{_ROOT}/stalls/{started_at}"
        self._heard: set[int] = set()  # Whose farewells are known.
        self._fit_number = next(_fits)
        self._beats = itertools.count()
        self._stop = threading.Event()
        self._leaving = threading.Lock()
        self._last_key: str | None = None
        self._partners: dict[int, int] = {}  # Process -> number of its `fit`.
        self._silent: set[int] = set()  # Those that did not answer last time.
        if client is not None:
            self._say_here()

    def _say_here(self) -> None:
        progress, where = self._place()
        note = {
            "fit": self._fit_number,
            "started_at": self._started_at,
            "progress": progress,
            "where": where,
            "beat": next(self._beats),
        }
        key = f"{_ROOT}/here/{self._index}"
        self._store.post(self._client, key, json.dumps(note))

    def _here(self) -> dict[int, dict]:
        """What the processes that take part in this `fit` said last."""
        found = self._store.read_all(self._client, f"{_ROOT}/here")
        notes = {i: json.loads(text) for i, text in found.items()}
        return {
            i: note
            for i, note in notes.items()
            if i == self._index or note["started_at"] == self._started_at
        }

    def gather(self, epoch: int, note: dict) -> tuple[list[dict], list[int]]:
        """Returns all notes, this process's first, and who did not answer.

        Waits for the processes that take part, all together for
        `stalled_seconds`; for one that was silent in the epoch before not
        again until it answers.
        """
        if self._client is None:
            return [note], []
        # Before this note is there nobody who waits for it leaves.
        here = self._here()
        self._partners.update({i: said["fit"] for i, said in here.items()})
        self._partners.pop(self._index, None)
        key = self._key(self._index, self._fit_number, epoch)
        self._store.post(self._client, key, json.dumps(note))
        deadline = time.monotonic() + self._seconds
        others, missing = [], []
        for process, fit in sorted(self._partners.items()):
            left = deadline - time.monotonic()
            if process in self._silent:
                left = 0.0
            text = self._store.read(
                self._client, self._key(process, fit, epoch), left
            )
            if text is None:
                missing.append(process)
            else:
                others.append(json.loads(text))
        self._silent = set(missing)
        if not missing:
            # Whoever posted this epoch's note has read the last one's.
            if self._last_key:
                self._store.remove(self._client, self._last_key)
            self._last_key = key
        return [note, *others], missing

    def _key(self, process: int, fit: int, epoch: int) -> str:
        return f"{_ROOT}/notes/{process}/{fit}/{epoch}"

    def watch(self) -> None:
        """Starts the thread that looks after the others, where there are."""
        if self._client is not None:
            # `fit` may end by an exception that no callback hears of: the
            # thread looks whether it is still on the main thread's stack.
            self._fit = calling_code("fit")
            self._thread_id = threading.get_ident()
            threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        """This process takes part no longer; ends the thread."""
        with self._leaving:
            if self._stop.is_set() or self._client is None:
                return
            self._stop.set()
            try:
                key = f"{_ROOT}/here/{self._index}"
                self._store.remove(self._client, key)
            except Exception as error:
                logger.warning(
                    "The processes' notes cannot be removed: %s", error
                )

    def _watch(self):
        observer = StallObserver(self._index, self._seconds)
        while not self._stop.wait(min(1.0, self._seconds / 4)):
            try:
                # Before anything else: where another process ended itself,
                # `fit` may have broken off here meanwhile.
                stall = self._farewell_of_others()
                if stall is None and not self._is_in_fit():
                    self.stop()
                    return
                with self._leaving:  # Once it has left it is not here again.
                    if self._stop.is_set():
                        return
                    self._say_here()
                stall = stall or observer.look(self._here(), time.monotonic())
            except Exception as error:
                # The service ends with process 0; JAX ends the run itself.
                logger.warning(
                    "The processes' notes cannot be read any more: %s", error
                )
                return
            if stall:
                self._stalled(stall)

    def _is_in_fit(self) -> bool:
        frame = sys._current_frames().get(self._thread_id)
        return is_running(self._fit, frame)

    def _stalled(self, stall: dict) -> None:
        self._on_stall(stall)
        if self._when_stalled == "abort":
            self._say_farewell(stall)
            self._end()

    def _farewell_of_others(self) -> dict | None:
        """The stall that ends another process, the first time it is read."""
        found = self._store.read_all(self._client, self._farewells)
        new = found.keys() - self._heard - {self._index}
        self._heard |= new
        return json.loads(found[min(new)]) if new else None

    def _say_farewell(self, stall: dict) -> None:
        """Tells the others why this process ends; who hears it ends too."""
        silent = set() if stall["answers"] else {stall["process"]}
        try:
            others = self._here().keys() - silent - {self._index}
        except Exception:  # The store is gone, and process 0 with it.
            return
        say_farewell(
            self._client,
            self._farewells,
            self._index,
            json.dumps(stall),
            sorted(others),
        )
