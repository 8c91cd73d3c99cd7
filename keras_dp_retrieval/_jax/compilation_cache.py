"""Compiled programs that outlive the model they were compiled for."""

import contextlib
import os

import jax
from jax.experimental.compilation_cache import compilation_cache

_FOLDER = "jax_compilation_cache_dir"
_MAX_SIZE = "jax_compilation_cache_max_size"
# By default what compiles within a second is not worth keeping; small models
# compile within a second, trial after trial.
_EVERYTHING = {"jax_persistent_cache_min_compile_time_secs": 0.0}


def folder_in_use() -> str | None:
    """The folder that JAX was given, by whomever."""
    return getattr(jax.config, _FOLDER)


def keep_in(folder: str | os.PathLike, max_bytes: int) -> None:
    """From now on, whatever JAX compiles is kept in `folder`.

    Args:
        folder: Path of a folder.
        max_bytes: int. JAX deletes what was not used for longest.
    """
    _configure(
        {_FOLDER: os.fspath(folder), _MAX_SIZE: max_bytes, **_EVERYTHING}
    )


@contextlib.contextmanager
def kept_in(folder: str | os.PathLike):
    """Inside, whatever JAX compiles is kept in `folder` and read from there.

    A folder that JAX has already been given stays in use instead.
    """
    if folder_in_use():
        yield
        return
    wanted = {_FOLDER: os.fspath(folder), **_EVERYTHING}
    before = {name: getattr(jax.config, name) for name in wanted}
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
