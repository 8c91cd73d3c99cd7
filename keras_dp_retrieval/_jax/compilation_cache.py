"""Compiled programs that outlive the model they were compiled for."""

import contextlib
import os

import jax
from jax.experimental.compilation_cache import compilation_cache


@contextlib.contextmanager
def kept_in(folder: str | os.PathLike):
    """Inside, whatever JAX compiles is kept in `folder` and read from there.

    A folder that the user has already given JAX stays in use instead.
    """
    wanted = {
        "jax_compilation_cache_dir": os.fspath(folder),
        # By default what compiles within a second is not worth keeping; small
        # models compile within a second, trial after trial.
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in wanted}
    if before["jax_compilation_cache_dir"]:
        yield
        return
    _configure(wanted)
    try:
        yield
    finally:
        _configure(before)


def _configure(values):
    for name, value in values.items():
        jax.config.update(name, value)
    # JAX looks at these settings once, when it first compiles.
    compilation_cache.reset_cache()
