"""A process that fails tells the others why, and does not wait for them.

Without that, JAX would have it wait at its end for all the others, which wait
for it in a step: for five minutes, its `shutdown_timeout_seconds`. Then all
are ended, and none says why (jax 0.10).
"""

import atexit
import contextlib
import re
import sys

from keras_dp_retrieval.processes import whereabouts
from keras_dp_retrieval.processes.stall_observer import end_process
from keras_dp_retrieval.processes.watch import PATIENCE_SECONDS, Watch
from keras_dp_retrieval.processes.words import begin, called, last_seen, say

# What a sum over all devices fails with where another process is gone.
_COLLECTIVE = re.compile(
    r"gloo|nccl|rccl|all-?reduce|all-?gather|connection (reset|closed)"
    r"|unavailable|coordination",
    re.IGNORECASE,
)

# What JAX says where a variable is made, a learning rate among them, with other
# values in other processes. It shows their values, in the processes' order.
_UNLIKE = "not the same on each process"
_UNLIKE_HINT = (
    "The processes differ in a seed, a learning rate, the data or a file: run "
    "the same program with the same arguments in all."
)

# What JAX puts before it, for every queued step.
_WRAPPING = re.compile(r"Error dispatching computation: ")


# How long one that exits within a loop waits for the others to do so too.
EXIT_SECONDS = 3.0


class AgreedExit(SystemExit):
    """Ends all processes behind the same step: none waits for another."""


class _State:
    watch: Watch | None = None
    code: int | None = None
    # Of the last loop, if a SystemExit left it: its code, and where that was.
    exit: tuple[int, str] | None = None


_state = _State()


def look_after(watch: Watch) -> None:
    """Sees to it that others hear how this process ends."""
    _state.watch = watch
    before = sys.excepthook

    def told(kind, error, traceback):
        before(kind, error, traceback)
        failed(error, 130 if issubclass(kind, KeyboardInterrupt) else 1)

    sys.excepthook = told
    # Runs before JAX's own, which was registered when JAX was imported.
    atexit.register(_leave)


def failed(error: BaseException, code: int = 1) -> None:
    """Tells the other processes that this one ends by an error.

    They end then, too. Does nothing in a run of one process.

    Args:
        error: The exception.
        code: int. What this process exits with, as soon as it exits.
    """
    watch = _state.watch
    if watch is None or _state.code is not None:
        return
    _state.code = code
    watch.tell(_why(watch, error))


@contextlib.contextmanager
def noting_exit():
    """Notes a SystemExit inside a loop that all processes take part in.

    `sys.excepthook` hears of every exception but this one.
    """
    _state.exit = None
    try:
        yield
    except AgreedExit:
        raise
    except SystemExit as error:
        code = error.code
        if not isinstance(code, int):
            code = int(code is not None)  # As Python does: it is a message.
        _state.exit = code, whereabouts.place()["where"]
        raise


def _why(watch: Watch, error: BaseException) -> str:
    said = " ".join(_WRAPPING.sub("", str(error)).split())[:500]
    message = f"{type(error).__name__}: {said}"
    if _COLLECTIVE.search(message):
        # Whose fault it was shows in who has gone silent.
        silent = watch.silent_now()
        if silent is not None:
            process, note = silent
            text = (
                f"{begin(called(process, note))} is dead, frozen or out "
                f"of reach, as this process saw ({message[:160]}). "
                f"{last_seen(note)}"
            )
            say(text)
            return text
    here = whereabouts.place()
    name = begin(called(watch.index, here))
    text = f"{name} failed, {here['where']}: {message.rstrip('.: ')}."
    if _UNLIKE in message:
        say(_UNLIKE_HINT)
        text += f" {_UNLIKE_HINT}"
    return text


def _leave() -> None:
    """The program is at its end: JAX would now wait for the others."""
    watch = _state.watch
    if watch is None:
        return
    if _state.code is None:
        if _state.exit is None:
            watch.finish(PATIENCE_SECONDS)
            return
        if watch.finish(EXIT_SECONDS):  # All have left.
            return
        _state.code, where = _state.exit
        name = begin(called(watch.index, whereabouts.place()))
        watch.tell(f"{name} ended, {where}, with exit code {_state.code}.")
    watch.leave()
    end_process(_state.code)
