"""What JAX compiles while a test runs."""

import contextlib

import jax


@contextlib.contextmanager
def compiled_programs():
    """Yields a list, which gets the name of each program compiled meanwhile."""
    names = []

    def listen(event, seconds, fun_name="", **_):
        if event.endswith("backend_compile_duration"):
            names.append(str(fun_name))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
