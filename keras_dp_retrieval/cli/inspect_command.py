"""`inspect`: what is in the data, before anything is trained."""

import warnings

from keras_dp_retrieval import recipe, report
from keras_dp_retrieval.cli import inputs, printing
from keras_dp_retrieval.cli.data_arguments import (
    add_data_arguments,
    add_json,
    check_data_arguments,
    in_flags,
)

HELP = "what is in the data, and what training would do"

EXAMPLES = {
    "shop.csv --figure shop.png": "your own file",
    "--version 1m --split by_time": "MovieLens 1M",
}


def add_arguments(parser):
    add_data_arguments(parser, positional=True)
    parser.add_argument("--seed", type=int, default=42, help="of the split")
    parser.add_argument(
        "--figure",
        metavar="FILE",
        help="draw the long tail, the interactions a user, and when they were",
    )
    add_json(parser)


def check(args) -> None:
    check_data_arguments(args)


def run(args) -> int:
    with warnings.catch_warnings():
        # What the split leaks is in the description.
        warnings.simplefilter("ignore", UserWarning)
        data = inputs.load_data(args, args.split)
        described = data.describe()
    plan = recipe.plan_recipe(data)
    if args.json:
        found = {**described.to_dict(), "plan": plan.to_dict()}
        printing.print_json(found, args.json_output)
    print(in_flags(str(described)))
    printing.print_features(data)
    print()
    print(plan)
    if args.figure:
        report.draw_data(described.to_dict(), args.figure)
        print(f"Drew {args.figure}.")
    return 0
