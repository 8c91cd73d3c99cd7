"""Which data a command works on: MovieLens, or a file of your own."""

import os
import re

from keras_dp_retrieval.data import arguments
from keras_dp_retrieval.data.readers.repeats import REPEATED, check_repeated
from keras_dp_retrieval.data.readers.text_conditions import parse_conditions
from keras_dp_retrieval.data.splits import SPLITS

_OF_MOVIELENS = ("version", "source", "data_dir", "features")
_OF_FILES = (
    *("user_column", "candidate_column", "rating_column", "timestamp_column"),
    *("weight_column", "filter", "repeated", "rating_range"),
    *("candidates", "title_column", "user_features", "candidate_features"),
)
_OF_BOTH = ("interactions", "split", "seed", "batch_size", "allow_trained")

# What the arguments of the classes are called on the command line.
_FLAGS = {
    **{name: name for name in (*_OF_MOVIELENS, *_OF_FILES, *_OF_BOTH)},
    "filters": "filter",
    "overwrite": "overwrite",
    "ratings": "rating_column",
    "timestamps": "timestamp_column",
}

SPLIT_HELP = (
    "what is held out; by default the latest interactions (`by_time`) of a "
    "file with timestamps, else some at `random`"
)


def add_data_arguments(parser, split_help=SPLIT_HELP, positional=False):
    """Adds the options that say which data, and how they are split.

    Args:
        parser: `argparse.ArgumentParser`.
        split_help: str.
        positional: bool. Whether the file is named without an option.
    """
    parser.add_argument(
        *(["interactions"] if positional else ["--interactions"]),
        **({"nargs": "?"} if positional else {}),
        metavar="FILE",
        help="your interactions: CSV (also .gz) whose first line names the "
        "columns, Parquet, or a folder of Parquet files; MovieLens otherwise",
    )
    parser.add_argument("--split", choices=SPLITS, help=split_help)
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="1,000 by default; the recipe chooses its own",
    )
    _add_file_arguments(parser.add_argument_group("your own file"))
    _add_movielens_arguments(parser.add_argument_group("MovieLens"))


def add_json(parser):
    """Adds the option of those commands whose result a script may read."""
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the result as JSON on stdout, and all else on stderr",
    )


def _add_file_arguments(group):
    for name, what in (
        ("user", "users; found by its name (user_id, userId, customer, ...)"),
        ("candidate", "what is recommended; likewise (item_id, product, ...)"),
        ("rating", "ratings; likewise, if there is one. `none` for none"),
        ("timestamp", "times: numbers or ISO dates; likewise"),
        ("weight", "what each interaction weighs in the loss; none by default"),
    ):
        group.add_argument(
            f"--{name}-column", metavar="NAME", help=f"column of {what}"
        )
    group.add_argument(
        "--filter",
        action="append",
        metavar="CONDITION",
        help="read only rows such as event=purchase (or event=purchase,cart, "
        "or 'price>5'); several must all be met",
    )
    group.add_argument(
        "--repeated",
        choices=REPEATED,
        help="what becomes of a user's repeated interactions with one "
        "candidate; `keep` by default",
    )
    group.add_argument(
        "--rating-range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="the scale of the ratings; 1 to 5 by default, or from the lowest "
        "to the highest if one is beyond",
    )
    group.add_argument(
        "--candidates",
        metavar="FILE",
        help="CSV or Parquet with the candidates' titles",
    )
    group.add_argument(
        "--title-column",
        metavar="NAME",
        help="column of titles in it; found by its name (title, name, ...)",
    )
    for side in ("user", "candidate"):
        group.add_argument(
            f"--{side}-features",
            metavar="FILE",
            help=f"CSV or Parquet with what is known of {side}s, a row each, "
            "with their ids; both towers learn from such",
        )


def _add_movielens_arguments(group):
    group.add_argument(
        "--version",
        help="100k (the default), 1m, 20m, 25m or latest-small",
    )
    group.add_argument(
        "--source",
        choices=["tfds", "files", "synthetic"],
        help="where the ratings come from; the best that is there by default",
    )
    group.add_argument(
        "--data-dir",
        metavar="FOLDER",
        help="folder of TFDS, or of GroupLens' files",
    )
    group.add_argument(
        "--features",
        action="store_const",
        const=True,
        help="learn from the features of movies and, in 100k and 1m, of users",
    )


def check_data_arguments(args, *, known: bool = False) -> None:
    """Raises an error if the options do not say which data.

    Args:
        args: `argparse.Namespace`.
        known: bool. Whether a model tells what is left out.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If options do not go together, or a value is nothing.
    """
    if args.interactions is None:
        given = _given(args, _OF_FILES)
        if given:
            raise ValueError(
                f"{given} must come with a file of interactions. Received: no "
                "file. Name it, or leave the option out for MovieLens."
            )
        if args.features and args.source == "synthetic":
            raise ValueError(
                "`--features` needs MovieLens itself. Received: --source "
                "synthetic, which has ratings alone."
            )
        return
    given = _given(args, _OF_MOVIELENS)
    if given:
        raise ValueError(
            "The data must be a file of your own, or MovieLens. Received: the "
            f"file {args.interactions!r}, and {given} of MovieLens. Leave one "
            "of them out."
        )
    if args.title_column is not None and args.candidates is None:
        raise ValueError(
            "`--title-column` must come with `--candidates FILE`, which has "
            f"the titles. Received: --title-column {args.title_column} alone."
        )
    files = "interactions", "candidates", "user_features", "candidate_features"
    for name in files:
        check_exists(flag(name), getattr(args, name))
    if args.rating_range is not None:
        args.rating_range = arguments.rating_range(args.rating_range)
    parse_conditions("--filter", args.filter or [])
    if args.repeated is not None and not known:
        check_repeated(args.repeated, args.weight_column is not None)


def _given(args, names) -> str:
    """Those of the options that were given, for an error."""
    given = [name for name in names if getattr(args, name) is not None]
    return ", ".join(f"`{flag(name)}`" for name in given)


def check_exists(option: str, path: str | None) -> None:
    """Raises a FileNotFoundError if a path was given that is not there."""
    if path is not None and not os.path.exists(path):
        raise FileNotFoundError(
            f"`{option}` must be a file or folder that exists. Received: "
            f"{path!r}."
        )


_STATE_A_KIND = r"State another kind with `kdr\.Features\([^`]*\)`"


def flag(name: str) -> str:
    """The name of an argument as it is typed."""
    return "--" + name.replace("_", "-")


# What can be said in Python alone, and what is done here instead.
_INSTEAD = {
    # It is found by its name.
    "`kdr.Features(table, id_column=...)`": "`--user-column NAME` or "
    "`--candidate-column NAME`",
    "Choose others with `kdr.Features(table, columns=[...])`": "Leave them out "
    "of the file",
    "Leave it out with `kdr.Features(table, columns=[...])`": "Leave it out of "
    "the file",
    ", such as with `frame.drop_duplicates('id')`": "",
}


def in_flags(message: str) -> str:
    """A message of the classes, in the words of the command line.

    `` `split='random'` `` becomes `` `--split random` ``.
    """

    def translated(found):
        name, value = found.groups()
        if name not in _FLAGS:
            return found[0]
        value = (value or "").strip("'\"")
        is_plain = value in ("", "True")
        return f"`{flag(_FLAGS[name])}{'' if is_plain else ' ' + value}`"

    for in_python, here in _INSTEAD.items():
        message = message.replace(in_python, here)
    corrected = "Correct the column, or leave it out of the file"
    message = re.sub(_STATE_A_KIND, corrected, message)
    return re.sub(r"`(\w+)(?:=([^`]*))?`", translated, message)
