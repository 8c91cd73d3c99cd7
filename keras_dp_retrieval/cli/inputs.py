"""The data set or the model that a command was asked for."""

import os
import pathlib

import keras_dp_retrieval as kdr
from keras_dp_retrieval.data._tensorflow import import_tensorflow


def load_model(path):
    return kdr.TwoTowerRetrieval.load(path)


def load_data(args, split: str, **fractions):
    """The data set asked for, or else the best one that is there."""
    _import_tensorflow_quietly()
    options = {
        "data_dir": args.data_dir,
        "batch_size": args.batch_size or 1000,
        "seed": args.seed,
        "split": split,
        **fractions,
    }
    source = args.source or _source_of(args.data_dir)
    data = kdr.MovieLensRetrievalDataset(args.version, source=source, **options)
    try:
        data.num_users  # noqa: B018, reads the ratings.
    except RuntimeError as error:
        if args.source or args.data_dir:
            raise  # Asked for by name: nothing else will do.
        print(
            f"MovieLens could not be reached: {error}\n"
            "Going on with SYNTHETIC data of the same shape. Every figure "
            "below is about made-up ratings, not about MovieLens."
        )
        data = kdr.MovieLensRetrievalDataset(
            args.version, source="synthetic", **options
        )
    return data


def _import_tensorflow_quietly():
    """Keeps what TensorFlow says of missing GPUs out of the output.

    It feeds the data alone, and writes before its own log level counts.
    """
    stderr = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        import_tensorflow().constant(0)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _source_of(data_dir: str | None) -> str:
    """`"files"` for a folder or archive of GroupLens, else `"tfds"`."""
    if data_dir is None:
        return "tfds"
    path = pathlib.Path(data_dir)
    is_tfds = (path / "movielens").is_dir()
    return "tfds" if is_tfds or not path.exists() else "files"
