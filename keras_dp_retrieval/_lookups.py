"""How a training step gets hold of the rows that a layer looks up.

A step that wants the gradient of the looked-up rows, and not of the whole
table, puts a tape into effect while the model runs; `RowEmbedding` then asks
the tape for its rows. Without a tape, layers look their rows up themselves.
"""

import contextlib
import contextvars
from typing import Protocol


class Tape(Protocol):
    """What a training step puts into effect around the model's forward pass."""

    def lookup(self, variable, ids):
        """Returns rows `ids` of `variable`, `(..., dim)`, or None.

        None says that the tape does not follow this lookup: the layer has to
        look the rows up itself, and the table gets its dense gradient.
        """


# A context variable and no global: two models may train in two threads.
_tape: contextvars.ContextVar[Tape | None] = contextvars.ContextVar(
    "lookup_tape", default=None
)


@contextlib.contextmanager
def follow(tape: Tape):
    """Puts `tape` into effect for the lookups inside the `with` block."""
    token = _tape.set(tape)
    try:
        yield tape
    finally:
        _tape.reset(token)


def lookup(variable, ids):
    """Rows `ids` of `variable` by the tape in effect, or None without one."""
    tape = _tape.get()
    return None if tape is None else tape.lookup(variable, ids)
