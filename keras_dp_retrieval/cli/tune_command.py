"""`tune`: searches for good hyperparameters."""

import pathlib

from keras_dp_retrieval import _garbage, losses
from keras_dp_retrieval.cli import inputs, printing
from keras_dp_retrieval.cli.data_arguments import (
    add_data_arguments,
    check_data_arguments,
    flag,
)
from keras_dp_retrieval.data._tensorflow import import_tensorflow

HELP = "search for good hyperparameters"

EXAMPLES = {
    "--max-trials 12 --plot trials.png": "MovieLens 100K",
    "--interactions shop.csv --objective full_softmax "
    "--temperature 0.05 0.2": "your own file",
}


def add_arguments(parser):
    add_data_arguments(parser)
    _add_search_arguments(parser)


def _add_search_arguments(parser):
    parser.add_argument(
        "--tuner",
        choices=["random", "bayesian", "hyperband", "grid"],
        default="random",
        help="which of KerasTuner's; random by default",
    )
    parser.add_argument(
        "--max-trials",
        type=int,
        default=12,
        metavar="N",
        help="12 by default",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=20,
        metavar="N",
        help="of a trial, at most; 20 by default",
    )
    parser.add_argument(
        "--embedding-dimension",
        type=int,
        nargs="+",
        default=[16, 32, 64, 128],
        metavar="N",
        help="dimensions to choose from; 16, 32, 64 and 128 by default",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        nargs="+",
        default=[1e-3, 1.0],
        metavar="X",
        help="two are the ends of a range, more are to choose from; 0.001 to 1 "
        "by default",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        nargs="+",
        metavar="X",
        help="likewise, of a softmax objective; not searched by default",
    )
    _add_tower_arguments(parser)
    parser.add_argument(
        "--objective",
        nargs="+",
        choices=["auto", *losses.OBJECTIVES],
        default=["auto"],
        help="what is learned; several are to choose from; by default `auto`, "
        "by the shape of the data",
    )
    parser.add_argument(
        "--metric",
        default="val_ndcg_at_10",
        metavar="NAME",
        help="what is optimized, a name from the logs; val_ndcg_at_10 by "
        "default",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="0 by default"
    )
    parser.add_argument(
        "--directory",
        default="tuning",
        metavar="FOLDER",
        help="where the search is kept, tuning by default; the same command "
        "resumes it",
    )
    parser.add_argument(
        "--project-name",
        default="search",
        metavar="NAME",
        help="folder in it; search by default",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="start over instead"
    )
    parser.add_argument(
        "--plot", metavar="FILE", help="draw the trials, such as trials.png"
    )


def _add_tower_arguments(parser):
    group = parser.add_argument_group("towers of data with features")
    group.add_argument(
        "--hidden-width",
        type=int,
        nargs="+",
        help="widths of the hidden layers to choose from; none by default",
    )
    group.add_argument(
        "--num-hidden-layers",
        type=int,
        nargs="+",
        help="how many such layers, to choose from; one by default",
    )
    group.add_argument(
        "--id-dropout",
        type=float,
        nargs="+",
        help="which share of ids is dropped in training: two are the ends of "
        "a range, more are to choose from; not searched by default",
    )


def check(args) -> None:
    check_data_arguments(args)
    has_features = args.user_features or args.candidate_features
    for name in ("hidden_width", "num_hidden_layers", "id_dropout"):
        if getattr(args, name) is None or has_features or args.features:
            continue
        raise ValueError(
            f"`{flag(name)}` belongs to the towers of data with features. "
            "Received: data without. Add `--user-features FILE` or "
            "`--candidate-features FILE`, or `--features` of MovieLens."
        )
    if args.num_hidden_layers is not None and args.hidden_width is None:
        raise ValueError(
            "`--num-hidden-layers` needs the width of the layers. Received: "
            "no width. Add such as `--hidden-width 32 64 128`."
        )


def run(args) -> int:
    # Not the tutorial's split: choosing by the test part would make its
    # figures too good.
    data = inputs.load_data(args, args.split)
    inputs.check_ratings(data, args.objective)
    printing.print_data(data)
    # Importing it takes seconds, of which TensorFlow's are quiet here.
    import_tensorflow()
    from keras_dp_retrieval import tuning

    _garbage.freeze_more()
    try:
        result = _search(tuning, data, args)
    except KeyboardInterrupt:
        folder = pathlib.Path(args.directory) / args.project_name
        raise KeyboardInterrupt(
            f"The same command resumes what is in {folder}"
            f"{', without --overwrite' if args.overwrite else ''}."
        ) from None
    if not result.best_model_path.exists():
        return 0  # A worker of several: the chief saves it at the end.
    print(f"\nThe best model is {result.best_model_path}, made by:\n")
    print(result.snippet)
    if args.plot:
        result.plot(args.plot)
        print(f"Drew {args.plot}.")
    return 0


def _search(tuning, data, args):
    return tuning.search(
        data,
        tuner=args.tuner,
        max_trials=args.max_trials,
        epochs=args.epochs,
        embedding_dimension=args.embedding_dimension,
        learning_rate=args.learning_rate,
        temperature=args.temperature,
        hidden_width=args.hidden_width,
        num_hidden_layers=args.num_hidden_layers,
        id_dropout=args.id_dropout,
        model_objective=args.objective,
        objective=args.metric,
        directory=args.directory,
        project_name=args.project_name,
        seed=args.seed,
        overwrite=args.overwrite,
    )
