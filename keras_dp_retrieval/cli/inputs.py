"""The data set or the model that a command was asked for."""

import pathlib

import keras_dp_retrieval as kdr
from keras_dp_retrieval.cli.data_arguments import in_flags
from keras_dp_retrieval.data.file_dataset import FileReading, dataset_from_file
from keras_dp_retrieval.data.readers.id_files import read_user_ids
from keras_dp_retrieval.data.readers.text_conditions import parse_conditions


def load_model(path):
    return kdr.TwoTowerRetrieval.load(path)


def read_users(path, user_column: str | None):
    """The ids of the users of a file, `(n,)`, in their order."""
    return read_user_ids(path, user_column or "auto")


def load_data(args, split: str | None = None, reading=None, **options):
    """The data set asked for: of a file, or of MovieLens.

    Args:
        args: `argparse.Namespace` of `data_arguments.add_data_arguments`.
        split: Optional str. By default what suits the data.
        reading: Optional dict. How the file was read before, for what is not
            in `args`.
        **options: As in `RetrievalDataset`.
    """
    options = {
        "batch_size": args.batch_size or 1000,
        "seed": args.seed,
        **options,
    }
    if args.interactions is None:
        return _load_movielens(args, split=split or "random", **options)
    given = {
        **vars(args),
        "conditions": args.filter and parse_conditions("--filter", args.filter),
    }
    reading = FileReading.of(given, otherwise=reading or {})
    # First, as they are small: what is wrong with them is said at once.
    options["user_features"] = _features(
        "user", args.user_features, reading.user_column
    )
    options["candidate_features"] = _features(
        "candidate", args.candidate_features, reading.candidate_column
    )
    return dataset_from_file(
        args.interactions,
        reading,
        candidates=args.candidates,
        title_column=args.title_column or "auto",
        split=split,
        **options,
    )


def _features(side: str, path: str | None, id_column: str):
    """A table of features; None without a file.

    Args:
        side: `"user"` or `"candidate"`.
        path: Optional path of a CSV or Parquet file.
        id_column: str. What has the ids among the interactions: here, too, if
            there is such a column.
    """
    if path is None:
        return None
    from keras_dp_retrieval.data.features import feature_reading

    if id_column not in feature_reading.column_names(path):
        id_column = "auto"
    return kdr.Features(kdr.Features(path, id_column=id_column).read(side))


def check_ratings(data, objectives) -> None:
    """Raises a ValueError if a rating is to be learned and there is none."""
    if "rating" in objectives and data.ratings("train").ratings is None:
        raise ValueError(
            "`--objective rating` learns from ratings. Received: data without "
            "ratings that differ. Name their column with `--rating-column "
            "NAME`, or use another objective."
        )


def _load_movielens(args, **options):
    """MovieLens, or else the best that is there."""
    version = args.version or "100k"
    options["data_dir"] = args.data_dir
    source = args.source or _source_of(args.data_dir)
    options["features"] = bool(args.features)
    data = kdr.MovieLensRetrievalDataset(version, source=source, **options)
    try:
        data.num_users  # noqa: B018, reads the ratings.
    except RuntimeError as error:
        if args.source or args.data_dir or args.features:
            raise  # Asked for by name: nothing else will do.
        print(
            f"MovieLens could not be reached: {in_flags(str(error))}\n"
            "Continuing with SYNTHETIC data of the same shape. Every figure "
            "below is about synthetic ratings, not about MovieLens."
        )
        data = kdr.MovieLensRetrievalDataset(
            version, source="synthetic", **options
        )
    return data


def _source_of(data_dir: str | None) -> str:
    """`"files"` for a folder or archive of GroupLens, else `"tfds"`."""
    if data_dir is None:
        return "tfds"
    path = pathlib.Path(data_dir)
    is_tfds = (path / "movielens").is_dir()
    return "tfds" if is_tfds or not path.exists() else "files"
