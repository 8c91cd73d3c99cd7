"""`evaluate`: the metrics of a saved model."""

import keras_dp_retrieval as kdr
from keras_dp_retrieval.cli import cold_table, inputs, printing
from keras_dp_retrieval.cli.data_arguments import (
    add_data_arguments,
    add_json,
    check_data_arguments,
    flag,
)

HELP = "metrics of a saved model"

TOGETHER = True
COMPILES = True

EXAMPLES = {
    "movies.keras": "on what `train` held out",
    "model.keras --interactions shop.csv --json": "for a script",
}


def add_arguments(parser):
    parser.add_argument("model", help="a file that `train` saved")
    add_data_arguments(
        parser,
        "which test part; that which `train` held out by default, as all else "
        "about the data but the name of the file",
    )
    parser.add_argument("--seed", type=int, help="likewise")
    parser.add_argument(
        "--allow-trained",
        action="store_true",
        help="evaluate on interactions that were trained on, too",
    )
    add_json(parser)


def check(args) -> None:
    check_data_arguments(args, known=True)


def run(args) -> int:
    model = inputs.load_model(args.model)
    data = _load_data_of(model, args)
    printing.print_data(data)
    metrics = _evaluate(model, data, args)
    if args.json:
        described = {"data": data.description, "synthetic": data.is_synthetic}
        printing.print_json({**described, **metrics}, args.json_output)
        return 0
    overall, of_groups = cold_table.divided(metrics)
    printing.print_metrics(overall, data)
    print(cold_table.shown(of_groups))
    return 0


def _evaluate(model, data, args) -> dict:
    try:
        return kdr.evaluate(
            model,
            data,
            split="test",
            allow_trained=args.allow_trained,
            cold=True,
        )
    except ValueError as error:
        # Ids that have features and no interactions are ids of the data, too.
        unnamed = [
            f"`{flag(name)} FILE`"
            for name in ("user_features", "candidate_features")
            if getattr(model, name) is not None and getattr(args, name) is None
        ]
        if not unnamed or args.interactions is None:
            raise
        raise ValueError(
            f"{error} The model was trained with features: name their files as "
            f"then, with {' and '.join(unnamed)}."
        ) from error


def _load_data_of(model, args):
    """The data set that the model was made for, unless another is named."""
    known = model.trained_on or {}
    # A model that was made in Python may call the candidates otherwise.
    options = {"candidate_key": model.candidate_key}
    if args.interactions is None:
        _choose_movielens(known, args)
        sides = model.user_features, model.candidate_features
        if any(one is not None for one in sides):
            args.features = True
        options = {}
    if args.seed is None:
        args.seed = known.get("seed", 42)
    for name in ("test_fraction", "validation_fraction"):
        if name in known:
            options[name] = known[name]
    split = args.split or known.get("split")
    return inputs.load_data(args, split, known.get("file"), **options)


def _choose_movielens(known, args):
    """Completes the options by what a model says of its data."""
    if known and "version" not in known:
        name = known.get("file", {}).get("name", "FILE")
        raise ValueError(
            "A model must be evaluated on the data that it was trained on. "
            f"Received: a model of {known['data']}, and MovieLens. Name the "
            f"file with `--interactions {name}`."
        )
    if not known:
        print(
            "Note: the file does not say which split of MovieLens it was "
            "trained on, so that nobody can tell whether it was trained on "
            "the test part."
        )
    # The order of the rows, and so a random split, depends on the source.
    if args.source is None and args.data_dir is None:
        args.source = known.get("source")
    args.version = args.version or known.get("version")
