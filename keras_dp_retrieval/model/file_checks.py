"""A file from a stranger: is it whole, and safe to unpack?"""

import json
import math
import os
import zipfile

import numpy as np

# What every format has.
MEMBERS = {
    "config.json",
    "model.weights.h5",
    "assets/ids.npz",
    "assets/titles.json",
    "assets/seeds.npz",
}

# A file may unpack to so many times its size: trained numbers hardly shrink.
# Below so many bytes, to anything: tables that are still 0 shrink a lot.
MOST_EXPANSION = 20
SMALL_BYTES = 2**26

# Of `config.json`, which also holds the vocabularies of Keras' lookup layers.
MOST_CONFIG_BYTES = 2**28

# Products of these arguments are numbers that a layer has as weights.
_TABLES: dict[str, list[tuple[str, ...]]] = {
    "RowEmbedding": [("input_dim", "output_dim")],
    "Embedding": [("input_dim", "output_dim")],
    "Dense": [("units",)],
    "Histories": [("num_users",), ("num_interactions",)],
    "IdHistoryTower": [
        ("num_users", "embedding_dimension"),
        ("num_candidates", "embedding_dimension"),
    ],
    "RecencyTower": [
        ("num_candidates", "embedding_dimension"),
        ("embedding_dimension", "embedding_dimension"),
    ],
    "FeatureLookup": [("num_rows",)],
    "TwoTowerRetrieval": [("num_candidates",)],
}


def check_file(filepath) -> None:
    """Checks a `.keras` file before anything in it is unpacked.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, lacks a member, or would unpack to far
            more than it is.
    """
    path = os.fspath(filepath)
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no file {path!r}.")
    advice = "Copy it again from where it was saved, or load an older save."
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, os.path.getsize(path))
            damaged = archive.testzip()
            missing = MEMBERS - set(archive.namelist())
            config = archive.read("config.json")
            is_ours = b'"format_version"' in config
            if is_ours and not missing:
                weights = archive.getinfo("model.weights.h5").file_size
                _check_config(json.loads(config), weights)
    except Exception as error:  # Damage has many faces, a password among them.
        raise ValueError(
            f"{path!r} is damaged, incomplete, or no `.keras` file "
            f"({error}). {advice}"
        ) from error
    if damaged is not None:
        raise ValueError(f"{path!r} is damaged in {damaged!r}. {advice}")
    if missing and is_ours:
        raise ValueError(f"{path!r} lacks {sorted(missing)}. {advice}")


def _check_members(archive: zipfile.ZipFile, num_bytes: int):
    """Raises a ValueError unless an archive is safe to unpack.

    Args:
        archive: Open for reading; nothing is unpacked.
        num_bytes: int. The size of the archive itself.
    """
    members = archive.infolist()
    for member in members:
        if member.flag_bits & 1:
            raise ValueError(f"{member.filename!r} is encrypted")
        if member.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise ValueError(
                f"{member.filename!r} is compressed in a way that `save` does "
                "not use (only stored or deflated members are read)"
            )
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise ValueError("some of its members are there twice")
    unpacked = sum(member.file_size for member in members)
    if unpacked > max(SMALL_BYTES, MOST_EXPANSION * num_bytes):
        raise ValueError(
            f"it would unpack to {unpacked:,} bytes, more than "
            f"{MOST_EXPANSION} times its own {num_bytes:,}"
        )
    for member in members:
        if member.filename == "config.json" and (
            member.file_size > MOST_CONFIG_BYTES
        ):
            raise ValueError(
                f"its 'config.json' has {member.file_size:,} bytes, and may "
                f"have {MOST_CONFIG_BYTES:,}"
            )


def _check_config(config, num_bytes: int):
    """Raises a ValueError if the weights could not be in the file.

    Args:
        config: The model's config, any JSON.
        num_bytes: int. Of the file's weights.
    """
    needed = _least_bytes(config, set())
    if needed > 2 * num_bytes:
        raise ValueError(
            f"its config asks for weights of {needed:,} bytes or more, and it "
            f"holds {num_bytes:,}"
        )


def _least_bytes(config, known: set) -> int:
    """Bytes that the tables in a config take at least, one a number."""
    if isinstance(config, list):
        return sum(_least_bytes(one, known) for one in config)
    if not isinstance(config, dict):
        return 0
    shared = config.get("shared_object_id")
    if isinstance(shared, int):
        if shared in known:
            return 0
        known.add(shared)
    inner = config.get("config")
    own = 0
    if isinstance(inner, dict):
        name = str(config.get("class_name"))
        own = sum(
            math.prod(_size(inner.get(key)) for key in keys)
            for keys in _TABLES.get(name, ())
        )
    return own + sum(_least_bytes(one, known) for one in config.values())


def _size(value) -> int:
    is_size = isinstance(value, int) and not isinstance(value, bool)
    return max(value, 0) if is_size else 0


def read_arrays(path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file, which is checked as `check_file` does."""
    with zipfile.ZipFile(path) as archive:
        _check_members(archive, os.path.getsize(path))
        for member in archive.infolist():
            with archive.open(member) as stream:
                _check_array(stream, member)
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _check_array(stream, member: zipfile.ZipInfo):
    """Raises a ValueError if an array says that it is larger than it is.

    NumPy would take the memory first.
    """
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"{member.filename!r} is in an unknown format.")
    shape, _, dtype = read[version](stream)
    needed = math.prod(shape) * dtype.itemsize
    if needed > member.file_size and not dtype.hasobject:
        raise ValueError(
            f"{member.filename!r} must hold {needed:,} bytes of numbers. "
            f"Received: {member.file_size:,}."
        )
