"""`--data-dir`: where the benchmarks find MovieLens 100K.

One meaning for all of them: the folder that holds `ml-100k`, the files of
GroupLens, or `tfds`, what TensorFlow Datasets has prepared, or both. It needs
no more than Python, as some peers have an environment of their own.
"""

import os
import pathlib

RULE = (
    "--data-dir must name the folder that holds `ml-100k` (the files of "
    "GroupLens, such as `u.data`) or `tfds` (prepared by TensorFlow Datasets)"
)


def add_data_dir(parser, *, required=True):
    """Adds the option; its default is the environment's `KDR_DATA_DIR`.

    Args:
        parser: `argparse.ArgumentParser`.
        required: bool. Whether the benchmark cannot do without.
    """
    default = os.environ.get("KDR_DATA_DIR") or None
    parser.add_argument(
        "--data-dir",
        type=_absolute,
        default=default,
        required=required and default is None,
        metavar="FOLDER",
        help="holds `ml-100k`, `tfds` or both; by default KDR_DATA_DIR",
    )


def ml_100k(data_dir) -> pathlib.Path:
    """The folder with the files of GroupLens.

    Args:
        data_dir: Path, as of `--data-dir`. That of the files itself will do:
            `u.data` lies in it.
    """
    given = _given(data_dir)
    for folder in (given, given / "ml-100k"):
        if (folder / "u.data").is_file():
            return folder
    raise SystemExit(f"{RULE}. Received: {given}, without ml-100k/u.data.")


def prepared(data_dir) -> pathlib.Path:
    """The folder of TensorFlow Datasets.

    Args:
        data_dir: Path, as of `--data-dir`.
    """
    folder = _given(data_dir) / "tfds"
    if not folder.is_dir():
        raise SystemExit(f"{RULE}. Received: {data_dir}, without tfds.")
    return folder


def _given(data_dir) -> pathlib.Path:
    if data_dir is None:
        raise SystemExit(f"{RULE}. Received: neither it nor KDR_DATA_DIR.")
    return pathlib.Path(data_dir)


def _absolute(text: str) -> pathlib.Path:
    # Other processes, which start elsewhere, are given it.
    return pathlib.Path(text).absolute()
