"""Each process says that it lives and how far it is, and hears the others.

JAX sees that a process died or froze, and then ends all the others; it does
not say on which host, nor in which step. And it sees nothing where a process
ends by an exception: that one then waits for the others at its end, and they
wait for it in a step, for five minutes (jax 0.10). So each process leaves
notes in the store of JAX's coordination service (`_jax/processes.py`), and
reads those of others: process 0, where the store is, those of all, the others
those of process 0, so that the traffic grows with the processes and not with
their square.
"""

import itertools
import json
import threading
import time

from keras_dp_retrieval._jax import processes
from keras_dp_retrieval.processes import whereabouts
from keras_dp_retrieval.processes.farewell import say_farewell
from keras_dp_retrieval.processes.stall_observer import (
    StallObserver,
    end_process,
)
from keras_dp_retrieval.processes.words import (
    begin,
    called,
    describe,
    last_seen,
    say,
)

_ROOT = "keras_dp_retrieval/watch"
_LEADER = f"{_ROOT}/leader"
_OTHERS = f"{_ROOT}/others"
_ENDED = f"{_ROOT}/ended"
_HEARD = f"{_ROOT}/heard"

# A silent process is named this far into JAX's time limit. JAX's heartbeats
# come twice in that time, so it ends this process, without a word from us,
# when half of it to all of it is over (jax 0.10: 6.7 to 10.5 s of 10).
NAMED_AFTER = 0.35

# How long one that is at its end waits for others that do not move.
PATIENCE_SECONDS = 300.0


class Watch:
    """This process among the others, as long as it lives.

    Args:
        client: What `processes.store()` returned.
        index: int. The number of this process.
        count: int. How many there are.
        heartbeat_timeout_seconds: float. JAX's own time limit.
        stalled_seconds: float. How long without a step is a stall.
        when_stalled: `"report"` or `"abort"`.
        end: Callable that ends this process.
        clock: Callable without arguments that returns seconds.
    """

    def __init__(
        self,
        client,
        index: int,
        count: int,
        heartbeat_timeout_seconds: float,
        stalled_seconds: float,
        when_stalled: str,
        end=end_process,
        clock=time.monotonic,
    ):
        self._client = client
        self.index = index
        self._count = count
        self._limit = heartbeat_timeout_seconds
        self._when_stalled = when_stalled
        self._end = end
        self._clock = clock
        self.interval = min(max(1.0, count / 50), self._limit / 20)
        self._beats = itertools.count()
        self._observer = StallObserver(index, stalled_seconds)
        self._said = ""  # Of process 0, for the others to repeat.
        self._done = False
        self._all_done = threading.Event()
        self._stop = threading.Event()
        self._answered = self._clock()
        self._notes: dict[int, dict] = {}
        self._changed: dict[int, tuple] = {}  # Process -> (beat, since when).
        self._named: set[int] = set()
        self._lock = threading.Lock()
        self._moved = self._clock()  # When any of the others did.

    def start(self) -> None:
        """Starts the threads; they end with the process."""
        self.exchange()
        self._talking = threading.Thread(target=self._talk, daemon=True)
        self._talking.start()
        threading.Thread(target=self._look, daemon=True).start()

    def finish(self, patience: float) -> bool:
        """Waits for all processes to come to their end; whether they have.

        JAX waits for that too, but for five minutes at most, and meanwhile
        nobody would hear that another failed.

        Args:
            patience: float. Seconds after which it gives up if none of the
                others has moved.
        """
        self._done = True
        whereabouts.moved("at the end of its program", together=False)
        self._moved = self._clock()
        while not self._all_done.wait(0.2) and self._talking.is_alive():
            if self._clock() - self._moved > patience:
                break
        # Or Python would end it inside a call of the store, and C++ then ends
        # the process ("exception not rethrown").
        self._stop.set()
        self._talking.join(timeout=5.0)
        return self._all_done.is_set()

    # The notes

    def _post(self) -> None:
        note = {
            **whereabouts.place(),
            "beat": next(self._beats),
            "done": self._done,
            "all_done": self._all_done.is_set(),
            "said": self._said,
        }
        folder = _OTHERS if self.index else _LEADER
        text = json.dumps(note)
        processes.post(self._client, f"{folder}/{self.index}", text)
        self._notes[self.index] = note

    def exchange(self) -> None:
        """Posts this process's note, and reads those of others."""
        self._post()
        folder = _LEADER if self.index else _OTHERS
        found = processes.read_all(self._client, folder)
        now = self._clock()
        with self._lock:
            self._answered = now
            for process, text in found.items():
                self._note(process, json.loads(text), now)
        if self.index == 0 and len(self._notes) == self._count:
            if all(note["done"] for note in self._notes.values()):
                self._all_done.set()
                self._post()
        elif self.index and self._notes.get(0, {}).get("all_done"):
            self._all_done.set()

    def _note(self, process, note, now) -> None:
        beat, _ = self._changed.get(process, (None, now))
        if beat != note["beat"]:
            self._changed[process] = (note["beat"], now)
            if process in self._named:
                self._named.discard(process)
                say(f"{begin(called(process, note))} answers again.")
        before = self._notes.get(process, {})
        self._notes[process] = note
        if note["progress"] != before.get("progress"):
            self._moved = now
        if note["said"] and note["said"] != before.get("said"):
            say(note["said"])

    def tell(self, text: str) -> None:
        """Tells all processes to end, and why; who is first is heard."""
        try:
            note = json.dumps({"by": self.index, "text": text})
            self._client.key_value_set(_ENDED, note)
        except Exception:  # Another was first, or the store is gone.
            pass

    def silent_now(self) -> tuple[int, dict] | None:
        """Who posts nothing for a few beats: `(process, note)`, or None."""

        def everyone():
            found = {}
            for folder in (_LEADER, _OTHERS):
                found.update(processes.read_all(self._client, folder))
            return found

        try:
            before = everyone()
            time.sleep(4 * self.interval)
            after = everyone()
        except Exception:  # The store is gone, and process 0 with it.
            return 0, self._notes.get(0, {})
        for process, text in sorted(after.items()):
            note = json.loads(text)
            same = before.get(process) == text and not note["done"]
            if same and process != self.index:
                self._named.add(process)
                return process, note
        return None

    # The threads

    def _talk(self) -> None:
        while not self._stop.is_set():
            try:
                self.exchange()
                # Waits, and knows at once.
                seconds = 0.2 if self._done else self.interval
                ended = processes.wait_for(self._client, _ENDED, seconds)
            except Exception as error:
                if self.index and not self._done:
                    first = str(error).partition("\n")[0]
                    self._name(0, f"its service is gone ({first})")
                return
            if ended is not None:
                self._hear(json.loads(ended))
                return

    def _hear(self, ended: dict) -> None:
        if ended["by"] == self.index:
            return
        say(f"{ended['text']} Process {self.index} ends too.")
        try:
            self.leave()
        finally:
            self._end(1)

    def leave(self) -> None:
        """Says that this process is about to end, having heard why."""
        others = (
            other
            for other in range(self._count)
            if other not in (self.index, *self._named)
        )
        say_farewell(self._client, _HEARD, self.index, "yes", others)

    def _look(self) -> None:
        """The other thread may be stuck in a question to a frozen service."""
        last = self._clock()
        while True:
            time.sleep(self.interval)
            now = self._clock()
            if now - last > 4 * self.interval:
                self._forget_times(now)  # It was this one that was frozen.
            last = now
            self.judge(now)

    def _forget_times(self, now: float) -> None:
        with self._lock:
            self._answered = now
            for process, (beat, _) in self._changed.items():
                self._changed[process] = (beat, now)

    def judge(self, now: float) -> None:
        """Names who is silent, and in process 0 who is behind."""
        limit = NAMED_AFTER * self._limit
        with self._lock:
            changed = dict(self._changed)
            if self.index and now - self._answered >= limit:
                changed[0] = (None, self._answered)
            notes = dict(self._notes)
        for process, (_, since) in sorted(changed.items()):
            if notes.get(process, {}).get("done") or now - since < limit:
                continue
            self._name(
                process,
                f"it has not answered for {now - since:.0f} s: it is dead, "
                "frozen or out of reach, or one call in it keeps Python's lock",
            )
        if self.index == 0 and not self._done:
            stall = self._observer.look(notes, now)
            if stall and stall["process"] not in self._named:
                self._stalled(describe(stall))

    def _name(self, process: int, what: str) -> None:
        if process in self._named:
            return
        self._named.add(process)
        note = self._notes.get(process, {})
        text = (
            f"{begin(called(process, note))} is lost: {what}. "
            f"{last_seen(note)} JAX ends all processes if it is silent for "
            f"{self._limit:g} s."
        )
        say(text)
        self._said = text

    def _stalled(self, text: str) -> None:
        say(text)
        self._said = text
        if self._when_stalled == "abort":
            self.tell(text)
            self.leave()
            self._end(1)
