"""Checkpoints on disk: written whole or not at all, verified, pruned.

One `.npz` each: the arrays as they are, and the rest as JSON in one of them.
The zip has a checksum of every array, and is not compressed, which would take
longer than what it saves. Nothing in it is pickled, so that loading a file
runs no code of it.

Orbax is not used (0.12.8; `benchmarks/bench_orbax.py`). It restores the same
bits, JSON beside them, and what SIGKILL breaks off is never read. But nothing
in it notices a flipped bit: all of 60 were read as other numbers without an
error, where here the checkpoint before is used. A damaged newest one that it
does notice is an error, not skipped; it refuses arrays of no element; and it
takes several times the CPU time and 94 MB of packages. keras#23251 is about
the names of Keras' own `OrbaxCheckpoint`, not about Orbax.
"""

import dataclasses
import json
import os
import pathlib
import re
import warnings
import zipfile
from collections.abc import Mapping

import numpy as np

from keras_dp_retrieval.warning_categories import ResumeWarning

_NAME = re.compile(r"epoch-(\d+)-batch-(\d+)\.npz")
_META = "state"
_DAMAGE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile)
_BEING_WRITTEN = ".being_written"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Args:
        path: pathlib.Path.
        state: dict, of JSON.
        arrays: dict from names to NumPy arrays.
    """

    path: pathlib.Path
    state: dict
    arrays: Mapping[str, np.ndarray]


class CheckpointFiles:
    """The checkpoints of one run, in a folder of their own.

    Args:
        folder: Path; made when the first one is written.
        keep: int. How many of the newest are kept.
    """

    def __init__(self, folder, keep: int):
        self.folder = pathlib.Path(folder)
        self._keep = keep

    def save(self, epoch: int, batch: int, state: dict, arrays: dict) -> None:
        """Writes a checkpoint, and removes what is too old.

        A process that ends at any moment leaves the one before. It is written
        beside, and gets its name when it is on the disk.

        Args:
            epoch: int. Whole epochs that are done.
            batch: int. Batches of the next one that are done.
            state: dict, of JSON.
            arrays: dict from names to NumPy arrays.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"epoch-{epoch:05d}-batch-{batch:08d}.npz"
        beside = path.with_name(path.name + _BEING_WRITTEN)
        text = json.dumps({**state, "dtypes": _short_floats(arrays)})
        members: dict = {_META: np.frombuffer(text.encode(), np.uint8)}
        for name, array in arrays.items():
            members[name] = _storable(array)
        with open(beside, "wb") as file:
            np.savez(file, **members)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        _sync_folder(self.folder)
        self._prune()

    def newest(self) -> Checkpoint | None:
        """Returns the newest checkpoint that is whole; None without any.

        Warns of each that is damaged, and gives it another name, so that it
        counts no more.
        """
        for path in reversed(self._paths()):
            try:
                return _read(path)
            except _DAMAGE as error:
                warnings.warn(
                    f"The checkpoint {path} is damaged ({error}); the one "
                    "before it is used, or training begins anew.",
                    ResumeWarning,
                    stacklevel=2,
                )
                os.replace(path, path.with_name(path.name + ".damaged"))
        return None

    def _paths(self) -> list[pathlib.Path]:
        """All checkpoints, the oldest first."""
        if not self.folder.is_dir():
            return []
        found = [
            (tuple(map(int, match.groups())), path)
            for path in self.folder.iterdir()
            if (match := _NAME.fullmatch(path.name))
        ]
        return [path for _, path in sorted(found)]

    def _prune(self) -> None:
        for path in self._paths()[: -self._keep]:
            path.unlink()
        # Of a process that was killed while it wrote.
        for path in self.folder.glob(f"*.npz{_BEING_WRITTEN}"):
            path.unlink()


def _read(path: pathlib.Path) -> Checkpoint:
    """Reads all of a file, and so compares every checksum in it."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    state = json.loads(arrays.pop(_META).tobytes())
    for name, dtype in state.pop("dtypes").items():
        import ml_dtypes  # JAX has it; NumPy alone does not know these.

        arrays[name] = arrays[name].view(getattr(ml_dtypes, dtype))
    return Checkpoint(path, state, arrays)


def _storable(array: np.ndarray) -> np.ndarray:
    """The same bytes in a type that NumPy can store."""
    if array.dtype.isbuiltin == 1:
        return array
    return array.view(f"uint{8 * array.dtype.itemsize}")


def _short_floats(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The types that NumPy does not have, such as bfloat16."""
    return {
        name: array.dtype.name
        for name, array in arrays.items()
        if array.dtype.isbuiltin != 1
    }


def _sync_folder(folder: pathlib.Path) -> None:
    """Has the new name on the disk too, where the system can say so."""
    try:
        opened = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders.
        return
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
