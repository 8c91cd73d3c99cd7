"""How long JAX has been compiling, told by JAX itself."""

import threading

import jax.monitoring

_PHASES = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)


class _Totals(threading.local):
    """One thread's compile time: JAX compiles in the thread that calls."""

    def __init__(self):
        self.seconds = 0.0
        self.spans = []  # (start, stop), apart from each other.


# Read its `seconds` where a call of `seconds()` would take too long.
totals = _Totals()
_listening = False


def seconds() -> float:
    """Seconds this thread has spent tracing, lowering and compiling so far.

    Counts from the first `listen()` on; take differences.
    """
    return totals.seconds


def listen() -> None:
    """Begins to count, once for the life of the process."""
    # One listener for the life of the process: it costs nothing while nothing
    # is compiled, and nobody has to remember to take it away.
    global _listening
    if not _listening:
        _listening = True
        jax.monitoring.register_event_time_span_listener(_add_span)


def _add_span(
    event: str, start_time: float, end_time: float, **_: str | int
) -> None:
    if event not in _PHASES:
        return
    # A function traced inside another reports first and its time is part of
    # the outer one's: what lies inside the new span is taken out again.
    spans = totals.spans
    while spans and spans[-1][0] >= start_time:
        inner_start, inner_end = spans.pop()
        totals.seconds -= inner_end - inner_start
    spans.append((start_time, end_time))
    totals.seconds += end_time - start_time
