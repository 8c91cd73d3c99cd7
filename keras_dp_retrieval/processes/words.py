"""What is said of processes, in sentences."""

import logging

_log = logging.getLogger("keras_dp_retrieval")


def say(text: str) -> None:
    """One warning to the logger: a line on `stderr` unless it is configured."""
    # The name stands in the line, too: without a configuration, Python prints
    # the message alone.
    _log.warning("keras_dp_retrieval: %s", text)


def describe(stall: dict) -> str:
    """One sentence about a stall."""
    where = stall["where"]
    if stall.get("running"):
        where += f", running {stall['running']}"
    about = (
        f"{called(stall['process'], stall)} has not moved for "
        f"{stall['seconds']:.0f} s (last seen {where})"
    )
    if stall["process"] == stall["seen_by"]:
        return f"This is what the other processes wait for: {about}."
    if not stall["answers"]:
        about += " and does not answer: it is frozen or dead"
    return f"Process {stall['seen_by']} waits: {about}."


def called(process: int, note: dict) -> str:
    """A process by its number, and where to find it if that is known.

    Small, for the middle of a sentence.
    """
    if not note.get("host"):
        return f"process {process}"
    return f"process {process} (host {note['host']}, pid {note['pid']})"


def begin(text: str) -> str:
    """The same at the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def last_seen(note: dict) -> str:
    """Where a process was, by its last note."""
    if not note:
        return "It never said where it was."
    return f"It was last seen {note['where']}, running {note['running']}."
