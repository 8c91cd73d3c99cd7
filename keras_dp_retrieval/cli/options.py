"""The command line's options, checked before anything is read or trained."""

import os
import pathlib
import tempfile

from keras_dp_retrieval import _checks, report
from keras_dp_retrieval.cli import list_files

# XLA takes more, but every device has threads of its own.
MOST_VIRTUAL_DEVICES = 1024

# NumPy's seeds have 32 bits.
LARGEST_SEED = 2**32 - 1


def check(args) -> None:
    """Raises a ValueError if an option of a command cannot be met.

    Args:
        args: `argparse.Namespace`. Options that are None were not given, and
            lists are checked one by one.
    """
    for name, rule in _RULES.items():
        given = getattr(args, name, None)
        option = _FLAGS.get(name, "--" + name.replace("_", "-"))
        for value in given if isinstance(given, list) else [given]:
            if value is not None:
                rule(option, value)


def _virtual_devices(option, value):
    if _checks.positive_int(option, value) > MOST_VIRTUAL_DEVICES:
        raise ValueError(
            f"`{option}` must be at most {MOST_VIRTUAL_DEVICES:,}. Received: "
            f"{value:,}."
        )


def _seed(option, value):
    if _checks.non_negative_int(option, value) > LARGEST_SEED:
        raise ValueError(
            f"`{option}` must be at most {LARGEST_SEED:,}. Received: {value:,}."
        )


def _positive_number(option, value):
    _checks.number_between(option, value, 0, open_low=True)


def _share(option, value):
    _checks.number_between(option, value, 0, 1)


def _model_file(option, path):
    if pathlib.PurePath(path).suffix != ".keras":
        raise ValueError(
            f"`{option}` must be a file that ends in .keras. Received: "
            f"{path!r}."
        )
    target = _target(option, path)
    # The longest name that saving uses: it writes beside the file, and
    # renames what is whole.
    _try_to_write(
        option,
        path,
        target.parent,
        f".{target.stem}.interrupted.",
        ".tmp.keras",
    )


def _figure_file(option, path):
    report.check_figure_path(option, path)
    _try_to_write(option, path, _target(option, path).parent)


def _folder(option, path):
    folder = pathlib.Path(os.path.realpath(path))
    while not folder.exists():  # It is made when it is needed.
        folder = folder.parent
    if not path or not folder.is_dir():
        raise ValueError(
            f"`{option}` must be a folder, or the name of a new one. "
            f"Received: {path!r}."
        )
    _try_to_write(option, path, folder)


def _target(option, path) -> pathlib.Path:
    """Where a link leads: that is what is written."""
    target = pathlib.Path(os.path.realpath(path))
    if target.is_dir():
        raise ValueError(
            f"`{option}` must be a file. Received: {path!r}, a folder."
        )
    if not target.parent.is_dir():
        raise ValueError(
            f"`{option}` must be in a folder that exists. Received: {path!r}. "
            f"Make the folder first: mkdir -p {os.fspath(target.parent)!r}."
        )
    return target


def _try_to_write(option, path, folder, prefix="", suffix=""):
    # Permissions do not tell: of a disk that is full or read-only, or of root.
    try:
        with tempfile.NamedTemporaryFile(
            dir=folder, prefix=prefix, suffix=suffix
        ):
            pass
    except OSError as error:
        raise ValueError(
            f"`{option}` must be a place that can be written to. Received: "
            f"{path!r} ({error.strerror})."
        ) from error


def _lists_file(option, path):
    suffix = os.path.splitext(path)[1]
    if suffix not in list_files.SUFFIXES:
        raise ValueError(
            f"`{option}` must be a file that ends in "
            f"{' or '.join(list_files.SUFFIXES)}. Received: {path!r}."
        )
    target = _target(option, path)
    _try_to_write(option, path, target.parent, f".{target.stem}.", suffix)


# Those that are not called as what they become.
_FLAGS = {"k": "-k", "lists": "--output"}

_RULES = {
    "virtual_devices": _virtual_devices,
    "devices_per_process": _virtual_devices,
    "epochs": _checks.positive_int,
    "embedding_dimension": _checks.positive_int,
    "hidden_width": _checks.positive_int,
    "num_hidden_layers": _checks.non_negative_int,
    "id_dropout": _share,
    "steps_per_execution": _checks.positive_int,
    "batch_size": _checks.positive_int,
    "max_trials": _checks.positive_int,
    "k": _checks.positive_int,
    "seed": _seed,
    "learning_rate": _positive_number,
    "temperature": _positive_number,
    "output": _model_file,
    "lists": _lists_file,
    "figure": _figure_file,
    "plot": _figure_file,
    "log_dir": _folder,
    "directory": _folder,
}
