"""`export`: a saved model for other software, proved."""

from keras_dp_retrieval.cli import inputs, printing
from keras_dp_retrieval.cli.data_arguments import add_json
from keras_dp_retrieval.serving.exporting import FORMATS, export_retrieval

HELP = "write a saved model for other software, and prove what was written"

EXAMPLES = {
    "model.keras served": "all formats",
    "model.keras served --formats parquet --overwrite": "candidates alone",
}

COMPILES = True


def add_arguments(parser):
    parser.add_argument("model", help="a file that `train` saved")
    parser.add_argument("folder", help="the folder to write")
    parser.add_argument(
        "--formats",
        nargs="+",
        choices=FORMATS,
        default=list(FORMATS),
        metavar="FORMAT",
        help=f"some of {', '.join(FORMATS)}; all by default",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an earlier export",
    )
    add_json(parser)


def run(args) -> int:
    model = inputs.load_model(args.model)
    manifest = export_retrieval(
        model, args.folder, formats=args.formats, overwrite=args.overwrite
    )
    if args.json:
        printing.print_json(manifest, args.json_output)
        return 0
    proof = manifest["proof"]
    print(
        f"Wrote {args.folder}: {manifest['num_candidates']:,} candidates, "
        f"vectors of {manifest['dimension']}, {manifest['metric']}."
    )
    num_requests = proof.pop("num_requests")
    for artefact, one in proof.items():
        recalls = manifest["recalls"].get(artefact)
        found = (
            "same lists"
            if recalls is None
            else "recall "
            + ", ".join(f"@{k} {recall:.3f}" for k, recall in recalls.items())
        )
        print(
            f"  {artefact}: {found} for {num_requests} requests; scores differ "
            f"by {one['largest_score_difference']:.1g} at most"
        )
    return 0
