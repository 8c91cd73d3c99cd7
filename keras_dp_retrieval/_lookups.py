"""How a training step intercepts the rows that a layer looks up.

A step that wants the gradient of the looked-up rows, and not of the whole
table, sets a tape while the model runs; `RowEmbedding` then asks
the tape for its rows. Without a tape, layers look their rows up themselves.
"""

import contextlib
import contextvars
from typing import Protocol


class Tape(Protocol):
    """What a training step sets around the model's forward pass."""

    def lookup(self, variable, ids):
        """Returns rows `ids` of `variable`, `(..., dim)`, or None.

        None says that the tape does not follow this lookup: the layer has to
        look the rows up itself, and the table gets its dense gradient.
        """

    def list_sums(self, variable, entries):
        """Returns what `_jax.list_sums.list_sums` does, or None, likewise."""


# A context variable, not a global: two models may train in two threads.
_tape: contextvars.ContextVar[Tape | None] = contextvars.ContextVar(
    "lookup_tape", default=None
)


@contextlib.contextmanager
def follow(tape: Tape):
    """Sets `tape` for the lookups inside the `with` block."""
    token = _tape.set(tape)
    try:
        yield tape
    finally:
        _tape.reset(token)


def lookup(variable, ids):
    """Rows `ids` of `variable` from the current tape, or None without one."""
    tape = _tape.get()
    return None if tape is None else tape.lookup(variable, ids)


def list_sums(variable, entries):
    """Sums of the rows in lists from the current tape; None without one."""
    tape = _tape.get()
    return None if tape is None else tape.list_sums(variable, entries)
