"""Files that are there whole or not at all, written by one process of many."""

import collections
import contextlib
import glob
import itertools
import os
import pathlib
import re
import uuid

import keras

from keras_dp_retrieval import distribution

# How long the other processes wait for process 0 to write the file.
TIMEOUT_SECONDS = 600.0

# A temporary file's name, between that of the file and the suffix.
_LEFTOVER = re.compile(r"\.[0-9a-f]{12}\.tmp")

# How often each path has been saved to: the processes run the same program,
# so their numbers agree.
_saves: collections.defaultdict = collections.defaultdict(itertools.count)


@contextlib.contextmanager
def renamed_when_whole(filepath, suffix: str = ".keras"):
    """Gives a temporary path, whose file takes the place of `filepath`.

    Args:
        filepath: Path.
        suffix: str. The end of the temporary path.
    """
    target = pathlib.Path(os.path.realpath(filepath))
    _remove_leftovers(target, suffix)
    # In the same folder: a file cannot be renamed on to another disk.
    temporary = target.with_name(
        f".{target.stem}.{uuid.uuid4().hex[:12]}.tmp{suffix}"
    )
    # What nobody else may read must not be readable for a moment either.
    mode = target.stat().st_mode & 0o7777 if target.exists() else None
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
    handle = os.open(temporary, flags, 0o666 if mode is None else 0o600)
    try:
        with contextlib.suppress(OSError):  # Some network disks have no locks.
            _lock(handle)
        yield temporary
        _flush(temporary)
        if mode is not None:
            temporary.chmod(mode)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    if os.name == "posix":  # Windows has no handle of a folder.
        _flush(target.parent)


def _remove_leftovers(target: pathlib.Path, suffix: str):
    """Removes what processes left that were killed while they wrote."""
    if os.name != "posix":
        return  # Without locks, nobody can tell them from those in use.
    before = f".{target.stem}"
    for path in target.parent.glob(f"{glob.escape(before)}.*.tmp{suffix}"):
        middle = path.name.removeprefix(before).removesuffix(suffix)
        if not _LEFTOVER.fullmatch(middle):
            continue
        with contextlib.suppress(OSError):  # In use, or not ours.
            handle = os.open(path, os.O_RDONLY)
            try:
                _lock(handle)
                path.unlink()
            finally:
                os.close(handle)


def _lock(handle):
    """Holds a file until its handle is closed or the process ends.

    Raises:
        OSError: If another process holds it.
    """
    if os.name == "posix":
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _flush(path):
    """Returns when the file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def on_process_zero(filepath):
    """Gives whether this process writes; the others wait for it at the end.

    Keras makes variables while it saves. Under a distribution these belong to
    all processes, and process 0 alone would wait for the others for ever.
    """
    before = keras.distribution.distribution()
    index, count = distribution.process_index(), distribution.process_count()
    if count == 1:
        yield True
        return
    from keras_dp_retrieval._jax import processes

    client = processes.store()
    path = os.path.abspath(filepath)
    key = f"keras_dp_retrieval/save/{path}/{next(_saves[path])}"
    if index:
        yield False
        _await_process_zero(client, key, filepath)
        return
    keras.distribution.set_distribution(None)
    try:
        yield True
    except BaseException as error:
        processes.post(client, key, repr(error))
        raise
    finally:
        keras.distribution.set_distribution(before)
    processes.post(client, key, "saved")


def _await_process_zero(client, key, filepath):
    from keras_dp_retrieval._jax import processes

    note = processes.read(client, key, TIMEOUT_SECONDS)
    if note is None:
        raise RuntimeError(
            f"Process 0 did not save {os.fspath(filepath)!r} within "
            f"{TIMEOUT_SECONDS:.0f} seconds. All processes must call "
            "`save` with the same path."
        )
    if note != "saved":
        raise RuntimeError(
            f"Process 0 could not save {os.fspath(filepath)!r}: {note}"
        )
