"""Processes that train together tell each other how they are doing.

A process waits inside a collective for as long as the slowest one takes, and
for ever if that one is stuck: nothing that runs on the devices can say so. So
each process has a thread that posts how far its main thread has come, and
reads how far the others are. The notes go through the coordination service
(see `_jax/processes.py`), which works while the devices wait.
"""

import itertools
import json
import logging
import os
import sys
import threading
import time
import types

logger = logging.getLogger("keras_dp_retrieval")

# Every process counts its own calls of `fit`; they run the same program, so
# the numbers agree and the notes of one `fit` never meet another's.
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
    """

    def __init__(self, index, count, stalled_seconds, place, on_stall):
        from keras_dp_retrieval._jax import processes

        self._store = processes
        self._client = processes.store() if count > 1 else None
        self._index, self._count = index, count
        self._seconds = stalled_seconds
        self._place = place
        self._on_stall = on_stall
        self._folder = f"keras_dp_retrieval/{next(_fits)}"
        self._stop = threading.Event()
        self._last_key = None

    def gather(self, epoch: int, note: dict) -> tuple[list[dict], list[int]]:
        """Returns all notes, this process's first, and who did not answer."""
        if self._client is None:
            return [note], []
        folder = f"{self._folder}/epoch/{epoch}"
        texts = self._store.gather(
            self._client,
            folder,
            self._index,
            self._count,
            json.dumps(note),
            self._seconds,
        )
        missing = [i for i in range(self._count) if i not in texts]
        if not missing:
            # Whoever posted this epoch's note has read the last one's.
            if self._last_key:
                self._store.remove(self._client, self._last_key)
            self._last_key = f"{folder}/{self._index}"
        others = [json.loads(texts[i]) for i in texts if i != self._index]
        return [note, *others], missing

    def watch(self) -> None:
        """Starts the thread that looks after the others, where there are."""
        if self._client is not None:
            # `fit` may end by an exception that no callback hears of: the
            # thread looks whether it is still on the main thread's stack.
            self._fit = _calling_code("fit")
            self._thread_id = threading.get_ident()
            threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()

    def _watch(self):
        observer = StallObserver(self._index, self._seconds)
        beats = itertools.count()
        while not self._stop.wait(min(1.0, self._seconds / 4)):
            if not _on_stack(self._thread_id, self._fit):
                return
            progress, where = self._place()
            note = {"progress": progress, "where": where, "beat": next(beats)}
            key = f"{self._folder}/beat/{self._index}"
            try:
                self._store.post(self._client, key, json.dumps(note))
                found = self._store.read_all(
                    self._client, f"{self._folder}/beat"
                )
            except Exception as error:
                # The service ends with process 0; JAX ends the run itself.
                logger.warning(
                    "The processes' notes cannot be read any more: %s", error
                )
                return
            notes = {i: json.loads(text) for i, text in found.items()}
            stall = observer.look(notes, time.monotonic())
            if stall:
                self._on_stall(stall)


class StallObserver:
    """Says which process the others wait for.

    Args:
        index: int. The number of this process.
        seconds: float. How long without progress is a stall.
    """

    def __init__(self, index: int, seconds: float):
        self._index = index
        self._seconds = seconds
        self._changed: dict = {}  # (process, key) -> (value, since when)
        self._reported: tuple | None = None

    def look(self, notes: dict[int, dict], now: float) -> dict | None:
        """Returns a new stall's description, or None.

        Args:
            notes: dict by process number, of `progress`, `where` and `beat`.
            now: float. Seconds on this process's own clock: clocks of
                different machines are never compared.
        """
        for other, note in notes.items():
            for name in ("progress", "beat"):
                value, _ = self._changed.get((other, name), (None, now))
                if value != note[name]:
                    self._changed[other, name] = (note[name], now)
        own = notes.get(self._index)
        if own is None or self._still(self._index, "progress", now) is None:
            return None
        silent = [p for p in notes if self._still(p, "beat", now) is not None]
        furthest = max(note["progress"] for note in notes.values())
        behind = min(notes, key=lambda p: notes[p]["progress"])
        process = silent[0] if silent else behind
        if not silent and notes[process]["progress"] == furthest:
            return None  # All wait at the same place: nobody is to blame.
        stall = (process, notes[process]["progress"])
        if stall == self._reported:
            return None
        self._reported = stall
        return {
            "process": process,
            "where": notes[process]["where"],
            "seconds": round(
                self._still(process, "progress", now) or self._seconds, 3
            ),
            "answers": process not in silent,
            "seen_by": self._index,
        }

    def _still(self, process, key, now) -> float | None:
        """How long a value has not changed, if that is long."""
        _, since = self._changed[process, key]
        return now - since if now - since >= self._seconds else None


def describe(stall: dict) -> str:
    """One sentence about a stall."""
    about = (
        f"process {stall['process']} has not moved for "
        f"{stall['seconds']:.0f} s (last seen {stall['where']})"
    )
    if stall["process"] == stall["seen_by"]:
        return f"This is what the other processes wait for: {about}."
    if not stall["answers"]:
        about += " and does not answer: it is frozen or dead"
    return f"Process {stall['seen_by']} waits: {about}."


def end_process() -> None:
    """Ends this process although its main thread is stuck in a collective."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _calling_code(name: str):
    """The code object of the nearest caller called `name`, or None."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != name:
        frame = frame.f_back
    return frame.f_code if frame else None


def _on_stack(thread_id: int, code) -> bool:
    """Whether a thread is inside `code`; True if there is no `code`."""
    frame = sys._current_frames().get(thread_id)
    while code is not None and frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None
