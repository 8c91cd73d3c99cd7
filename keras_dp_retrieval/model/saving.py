"""Saving: one `.keras` file that holds all that a model needs.

| member of the file | what it holds |
| --- | --- |
| `config.json` | the arguments of the model, its optimizer's, and the format |
| `model.weights.h5` | towers, slots, counts of candidates, histories |
| `assets/ids.npz` | the ids of the rows 1 to n of users and candidates |
| `assets/titles.json` | the titles of candidates, as pairs |
| `assets/trained_on.json` | which data, and how they were split |
| `assets/seeds.npz` | where random numbers stand (dropout, drawn negatives) |
| `assets/index.npz` | the candidate index, where one was built |

Nothing in it is pickled: a file from a stranger cannot run code.
"""

import collections
import contextlib
import glob
import itertools
import json
import math
import os
import pathlib
import re
import uuid
import warnings
import zipfile

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import distribution
from keras_dp_retrieval.data.vocabulary import Vocabulary
from keras_dp_retrieval.index import CandidateIndex
from keras_dp_retrieval.training.finite import warn_if_saved
from keras_dp_retrieval.training.in_use import reads

# The number of the layout above. It rises when an older version of this
# package could not read the file any more. Format 1 had no
# `popularity_offset`; up to format 2 an index was in the weights, too, and the
# inputs and weights of the towers were not told; up to format 3 neither were
# the candidates that training does not have.
FORMAT_VERSION = 4

# How long the other processes wait for process 0 to write the file.
SAVE_TIMEOUT_SECONDS = 600.0

_MEMBERS = {
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
    "TwoTowerRetrieval": [("num_candidates",)],
}

# The end of a temporary file's name.
_LEFTOVER = re.compile(r"\.[0-9a-f]{12}\.tmp\.keras")

# The array in `assets/index.npz` that holds the index's arguments.
_CONFIG = "config"

# How often each path has been saved to: the processes run the same program,
# so their numbers agree.
_saves: collections.defaultdict = collections.defaultdict(itertools.count)


class Saving:
    """The part of `TwoTowerRetrieval` that goes to disk and comes back."""

    user_vocabulary: Vocabulary | None = None
    candidate_vocabulary: Vocabulary | None = None
    candidate_titles: dict
    candidate_index: CandidateIndex | None
    trained_on: dict | None

    # What the model brings along.
    weights: list
    non_trainable_variables: list

    @reads
    def save(self, filepath, overwrite=True, zipped=None, **kwargs):
        """Saves all of the model into one file, or leaves things as they were.

        The file is written beside `filepath` under a hidden name that ends in
        `.tmp.keras`, and renamed when it is whole and on the disk. Whatever
        happens in between, `filepath` is the old file or the new one, which
        has the old one's permissions. A process that is killed may leave a
        hidden file; the next save to `filepath` removes it.

        Where several processes train together, all of them call this. Process
        0 writes, the others return when the file is there.

        Args:
            filepath: Path that ends in `.keras`. Where Keras accepts others
                (`zipped=False`, `hf://`, remote paths), it writes them itself.
            overwrite: bool. If False, asks before a file is replaced.
            zipped: As in `keras.Model.save`.
            **kwargs: As in `keras.Model.save`.

        Warns where weights are NaN or infinite: the file is written, but is of
        no use.

        Raises:
            ValueError: If `filepath` ends in `.h5`, or a tower has no
                variables yet and cannot be built without a batch of its
                inputs.
            RuntimeError: In the other processes, if process 0 failed to save
                or did not within ten minutes.
        """
        if os.fspath(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                "Models of this package are saved as `.keras` files, as HDF5 "
                "alone cannot hold their ids. Received: filepath="
                f"{os.fspath(filepath)!r}. Use a name that ends in `.keras`, "
                "or `save_weights` with one that ends in `.weights.h5`."
            )
        self._build_all()
        warn_if_saved(self)
        with _on_process_zero(filepath) as writes:
            if not writes:
                return
            if not _is_local_keras_file(filepath, zipped):
                super().save(filepath, overwrite, zipped, **kwargs)
            elif overwrite or _may_replace(filepath):
                with _renamed_when_whole(filepath) as temporary:
                    super().save(temporary, zipped=zipped, **kwargs)

    def __dir__(self):
        # Keras walks through it to find what has weights of its own, and the
        # index has an asset of its own.
        return [n for n in super().__dir__() if n != "candidate_index"]

    def _build_all(self):
        # Keras saves only what is built, and builds an optimizer on loading.
        self.build()
        optimizer = getattr(self, "optimizer", None)
        if optimizer is not None and not optimizer.built:
            optimizer.build(self.trainable_variables)

    @classmethod
    def load(cls, filepath, custom_objects=None, compile=True, safe_mode=True):
        """Returns the model in a `.keras` file, or says what is wrong with it.

        As `keras.saving.load_model`. In addition, the file is checked first,
        before anything in it is unpacked, and whatever is wrong with it is
        one error.

        Args:
            filepath: Path of a file that `save` wrote.
            custom_objects: Optional dict of your own classes by name; those
                registered with Keras are found without.
            compile: bool. Whether to restore the optimizer.
            safe_mode: bool. Whether Python code in the file, such as that of
                a `Lambda` layer, is refused. Only a file that you trust may
                run its code.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged, incomplete, of a newer format,
                holds another kind of model, unpacks to far more than it is,
                or holds values that no training gives: NaN, rows out of
                range.
        """
        _check_file(filepath)
        try:
            with warnings.catch_warnings():
                # Keras goes on without the optimizer's state.
                warnings.filterwarnings("error", "Skipping variable loading")
                model = keras.saving.load_model(
                    filepath, custom_objects, compile, safe_mode
                )
            if isinstance(model, cls):
                _check_values(model)
        except Exception as error:  # Keras raises many kinds.
            raise ValueError(
                f"The model in {os.fspath(filepath)!r} could not be loaded: "
                f"{error}"
            ) from error
        if not isinstance(model, cls):
            raise ValueError(
                f"{os.fspath(filepath)!r} must hold a {cls.__name__}. "
                f"Received: a {type(model).__name__}. Load it with "
                "`keras.saving.load_model`."
            )
        return model

    def get_config(self):
        return {**super().get_config(), "format_version": FORMAT_VERSION}

    def save_assets(self, folder):
        """Writes what is neither config nor weight; Keras calls it."""
        folder = pathlib.Path(folder)
        vocabularies = {
            "user_ids": self.user_vocabulary,
            "candidate_ids": self.candidate_vocabulary,
        }
        ids = {key: v.ids for key, v in vocabularies.items() if v is not None}
        np.savez(folder / "ids.npz", **ids)
        titles = [[_plain(k), v] for k, v in self.candidate_titles.items()]
        text = json.dumps(titles)
        (folder / "titles.json").write_text(text, encoding="utf-8")
        text = json.dumps(self.trained_on)
        (folder / "trained_on.json").write_text(text, encoding="utf-8")
        seeds = [ops.convert_to_numpy(state) for state in self._seed_states()]
        np.savez(folder / "seeds.npz", *seeds)
        if self.candidate_index is not None:
            index = {_CONFIG: json.dumps(self.candidate_index.get_config())}
            self.candidate_index.save_own_variables(index)
            np.savez(folder / "index.npz", **index)

    def load_assets(self, folder):
        """Reads what `save_assets` wrote; Keras calls it."""
        folder = pathlib.Path(folder)
        ids = _read_arrays(folder / "ids.npz")
        sides = {
            side: _vocabulary(side, ids.get(f"{side}_ids"), num_rows)
            for side, num_rows in (
                ("user", self.num_users),
                ("candidate", self.num_candidates),
            )
        }
        text = (folder / "titles.json").read_text(encoding="utf-8")
        titles = dict(json.loads(text))
        seeds = _read_arrays(folder / "seeds.npz").values()
        for state, value in zip(self._seed_states(), seeds, strict=True):
            state.assign(value)
        trained_on = None
        if (folder / "trained_on.json").exists():  # From format 3 on.
            text = (folder / "trained_on.json").read_text(encoding="utf-8")
            trained_on = json.loads(text)
        self._indexed.index = _index(folder / "index.npz")
        self.trained_on = trained_on
        self.user_vocabulary = sides["user"]
        self.candidate_vocabulary = sides["candidate"]
        self.candidate_titles = titles

    def _seed_states(self) -> list:
        # Keras leaves them out of the weights, so that training with dropout
        # would not go on as if it had never stopped.
        weights = {id(weight) for weight in self.weights}
        return [
            variable
            for variable in self.non_trainable_variables
            if id(variable) not in weights
        ]


def without_format(config: dict) -> dict:
    """Returns a model's config without the format version, if it can be read.

    Raises:
        ValueError: If the format is newer than this version of the package.
    """
    config = dict(config)
    version = config.pop("format_version", FORMAT_VERSION)
    if version not in range(1, FORMAT_VERSION + 1):
        raise ValueError(
            f"The model has the format {version!r}. This version of "
            f"keras-dp-retrieval reads formats up to {FORMAT_VERSION}: "
            "install the version that saved it, or a newer one."
        )
    return config


# Writing


def _is_local_keras_file(filepath, zipped) -> bool:
    path = os.fspath(filepath)
    return path.endswith(".keras") and "://" not in path and zipped is not False


def _may_replace(filepath) -> bool:
    if not os.path.exists(filepath):
        return True
    question = f"{os.fspath(filepath)} already exists. Overwrite it? [y/n] "
    return input(question).strip().lower() in ("y", "yes")


@contextlib.contextmanager
def _renamed_when_whole(filepath):
    """Gives a temporary path, whose file takes the place of `filepath`."""
    target = pathlib.Path(os.path.realpath(filepath))
    _remove_leftovers(target)
    # In the same folder: a file cannot be renamed on to another disk.
    temporary = target.with_name(
        f".{target.stem}.{uuid.uuid4().hex[:12]}.tmp.keras"
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


def _remove_leftovers(target: pathlib.Path):
    """Removes what processes left that were killed while they saved."""
    if os.name != "posix":
        return  # Without locks, nobody can tell them from those in use.
    for path in target.parent.glob(f".{glob.escape(target.stem)}.*.tmp.keras"):
        if not _LEFTOVER.fullmatch(path.name.removeprefix(f".{target.stem}")):
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
def _on_process_zero(filepath):
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

    note = processes.read(client, key, SAVE_TIMEOUT_SECONDS)
    if note is None:
        raise RuntimeError(
            f"Process 0 did not save {os.fspath(filepath)!r} within "
            f"{SAVE_TIMEOUT_SECONDS:.0f} seconds. All processes must call "
            "`save` with the same path."
        )
    if note != "saved":
        raise RuntimeError(
            f"Process 0 could not save {os.fspath(filepath)!r}: {note}"
        )


# Reading


def _check_file(filepath):
    path = os.fspath(filepath)
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no file {path!r}.")
    advice = "Copy it again from where it was saved, or load an older save."
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, os.path.getsize(path))
            damaged = archive.testzip()
            missing = _MEMBERS - set(archive.namelist())
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


def _check_values(model):
    """Raises a ValueError for values that no training gives."""
    optimizer = getattr(model, "optimizer", None)
    slots = [] if optimizer is None else optimizer.variables
    for variable in [*model.weights, *slots]:
        if not keras.backend.is_float_dtype(variable.dtype):
            continue
        values = ops.convert_to_numpy(ops.cast(variable.value, "float32"))
        num_bad = int(np.sum(~np.isfinite(values)))
        if num_bad:
            raise ValueError(
                "Weights must be finite. Received: NaN or infinity in "
                f"{num_bad:,} of the {values.size:,} numbers of "
                f"{variable.path!r}."
            )
    if (ops.convert_to_numpy(model.candidate_counts) < 0).any():
        raise ValueError(
            "`candidate_counts` must be 0 or more. Received: negative ones."
        )
    if model.histories is not None:
        model.histories.check_rows(model.num_candidates)
    if model.candidate_index is not None and not (
        np.isfinite(model.candidate_index.vectors()).all()
    ):
        raise ValueError(
            "The vectors of the candidate index must be finite. Received: NaN "
            "or infinity."
        )


def _read_arrays(path) -> dict[str, np.ndarray]:
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


def _index(path) -> CandidateIndex | None:
    if not path.exists():
        return None
    saved = _read_arrays(path)
    index = CandidateIndex.from_config(json.loads(str(saved.pop(_CONFIG))))
    index.load_own_variables(saved)
    return index


def _vocabulary(side, ids, num_rows) -> Vocabulary | None:
    if ids is None:
        return None
    vocabulary = Vocabulary(ids)
    if vocabulary.num_rows > num_rows:
        raise ValueError(
            f"The ids of the {side}s do not fit the model: there are "
            f"{len(ids)} for {num_rows} rows."
        )
    return vocabulary


def _plain(key):
    return key.item() if isinstance(key, np.generic) else key
