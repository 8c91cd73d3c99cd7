"""Which process the others wait for, from the notes of all."""

import os
import sys


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
            notes: dict by process number, of `progress`, `where` and `beat`;
                and of `host`, `pid` and `running` if they are known, and
                `together`: whether others may be waited for there.
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
        silent = [p for p in silent if not notes[p].get("done")]
        # Who has left comes no further: the others wait for it in vain.
        left = {p for p, note in notes.items() if note.get("done")}
        reached = {
            p: -1 if p in left else note["progress"]
            for p, note in notes.items()
        }
        furthest = max(reached.values())
        behind = min(notes, key=reached.__getitem__)
        process = silent[0] if silent else behind
        if not silent and reached[process] == furthest:
            return None  # All wait at the same place: nobody is to blame.
        if not any(
            note.get("together", True)
            for p, note in notes.items()
            if reached[p] == furthest
        ):
            return None  # What goes on there, nobody else takes part in.
        stall = (process, notes[process]["progress"])
        if stall == self._reported:
            return None
        self._reported = stall
        return {
            "process": process,
            "where": notes[process]["where"],
            "running": notes[process].get("running"),
            "host": notes[process].get("host"),
            "pid": notes[process].get("pid"),
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


def end_process(code: int = 1) -> None:
    """Ends this process although its main thread is stuck in a collective."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
