"""`report`: prints and draws recorded runs."""

from keras_dp_retrieval import report

HELP = "look at recorded runs"

EXAMPLES = {
    "runs/a": "what `train --log-dir runs/a` recorded",
    "runs/a runs/b --figure runs.png": "two, side by side",
}


def add_arguments(parser):
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="one or two folders that `train --log-dir` wrote",
    )
    parser.add_argument("--figure", metavar="FILE", help="draw them as well")


def run(args) -> int:
    print(report.report(args.runs, args.figure))
    return 0
