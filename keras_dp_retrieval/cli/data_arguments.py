"""Arguments that several commands have."""


def add_data_arguments(
    parser,
    version_default="100k",
    split_help="what is held out; `random` by default, the tutorial's own "
    "with `--objective rating`",
):
    parser.add_argument(
        "--version",
        default=version_default,
        help="MovieLens 100k, 1m, 20m, 25m or latest-small",
    )
    parser.add_argument(
        "--source",
        choices=["tfds", "files", "synthetic"],
        help="where the ratings come from; the best that is there by default",
    )
    parser.add_argument(
        "--data-dir", help="folder of TFDS, or of GroupLens' files"
    )
    parser.add_argument(
        "--split",
        choices=["random", "tutorial", "by_time", "leave_last_out"],
        help=split_help,
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        help="1,000 by default; the recipe chooses its own",
    )
