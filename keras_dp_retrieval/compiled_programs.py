"""Compiled programs that the next process finds."""

import os
import pathlib
import sys

from keras_dp_retrieval import _checks
from keras_dp_retrieval.distribution import require_jax

MAX_MEGABYTES = 1000


def compilation_cache(
    folder: str | os.PathLike, *, max_megabytes: int = MAX_MEGABYTES
) -> pathlib.Path:
    """Keeps what JAX compiles from now on, for this process and later ones.

    A second start of the same program then reads its steps instead of
    compiling them. This configures the JAX of the whole process, also for
    models of others, so the package does it only when asked; its commands do
    it by themselves. If JAX already has a folder (`JAX_COMPILATION_CACHE_DIR`),
    that one stays in use, as it is configured.

    Args:
        folder: Path of a folder, which is made if need be. Whoever can write
            to it can make this process run other programs: it should be the
            user's own.
        max_megabytes: int. What was not used for longest is deleted when the
            folder grows larger.

    Returns:
        The folder in use, a `pathlib.Path`.

    Raises:
        RuntimeError: If Keras does not run on JAX.

    Example:

    ```python
    kdr.compilation_cache("~/.cache/my_program")
    ```
    """
    require_jax("`compilation_cache()`")
    max_megabytes = _checks.positive_int("max_megabytes", max_megabytes)
    from keras_dp_retrieval._jax import compilation_cache as cache

    in_use = cache.folder_in_use()
    if in_use:
        return pathlib.Path(in_use)
    own = pathlib.Path(folder).expanduser().absolute()
    own.mkdir(parents=True, exist_ok=True)
    cache.keep_in(own, max_megabytes * 10**6)
    return own


def folder_of_user() -> pathlib.Path:
    """Where this user's programs keep what can be made again."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    if sys.platform == "darwin":
        base = "~/Library/Caches"
    return pathlib.Path(base).expanduser() / "keras_dp_retrieval" / "compiled"
