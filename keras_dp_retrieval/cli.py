"""The command line: parse, call, print."""

import argparse
import os
import pathlib
import sys
import warnings
from collections.abc import Sequence

import numpy as np

from keras_dp_retrieval import cli_options
from keras_dp_retrieval._version import __version__
from keras_dp_retrieval.data._tensorflow import import_tensorflow

DESCRIPTION = "Train and use two-tower retrieval models, data-parallel."

# The exit status of a process that Ctrl-C has ended: 128 + SIGINT.
INTERRUPTED = 130

_EXPECTED = (
    ValueError,
    OSError,
    RuntimeError,
    FloatingPointError,
    ImportError,  # A package that is an extra: it names the command.
    MemoryError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the process's exit status.

    0 where all went well, 1 where it could not be done and 2 where the command
    was not understood, with one line on `stderr` that says why; 130 where it
    was interrupted, with one that says what is left.
    """
    args = _parser().parse_args(argv)
    warnings.showwarning = _print_warning
    if hasattr(sys.stdout, "reconfigure"):
        # Also in a file, what is done is seen when it is done.
        sys.stdout.reconfigure(line_buffering=True)
    try:
        cli_options.check(args)
        _use_virtual_devices(args.virtual_devices)
        return args.run(args)
    except KeyboardInterrupt as interruption:
        _print_error(f"interrupted. {interruption}")
        return INTERRUPTED
    except _EXPECTED as error:
        # The messages say what would work; a traceback would bury them.
        _print_error(str(error) or type(error).__name__)
        return 1


def _print_error(message: str):
    one_line = " ".join(message.split())
    print(f"keras-dp-retrieval: {one_line}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        """Says it in one line; argparse would put all options before it."""
        self.exit(2, f"{self.prog}: {message}. See `{self.prog} --help`.\n")


def _parser() -> argparse.ArgumentParser:
    everywhere = argparse.ArgumentParser(add_help=False)
    everywhere.add_argument(
        "--virtual-devices",
        type=int,
        metavar="N",
        help="split the CPU into N devices; proves results, not speed",
    )
    parser = _Parser(prog="keras-dp-retrieval", description=DESCRIPTION)
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {__version__}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name, run, help):
        command = commands.add_parser(name, parents=[everywhere], help=help)
        command.set_defaults(run=run)
        return command

    train = add("train", run_train, "train on MovieLens and save the model")
    _add_data_arguments(train)
    train.add_argument(
        "--objective",
        choices=["recipe", "rating", "full_softmax", "in_batch_softmax"],
        default="recipe",
        help="what is learned; `recipe` chooses by the shape of the data, "
        "`rating` follows the Keras tutorial",
    )
    train.add_argument("--epochs", type=int)
    train.add_argument("--embedding-dimension", type=int)
    train.add_argument("--learning-rate", type=float)
    train.add_argument(
        "--steps-per-execution",
        type=int,
        help="1 by default; the recipe chooses its own",
    )
    train.add_argument("--seed", type=int, default=42)
    train.add_argument("--log-dir", help="for TensorBoard and `report`")
    train.add_argument(
        "--output",
        default="movies.keras",
        metavar="FILE",
        help="movies.keras by default; Ctrl-C saves what the last whole epoch "
        "left as movies.interrupted.keras instead",
    )

    evaluate = add("evaluate", run_evaluate, "metrics of a saved model")
    evaluate.add_argument("model", help="a file that `train` saved")
    _add_data_arguments(
        evaluate,
        version_default=None,
        split_help="which test part; that which `train` held out by default",
    )
    evaluate.add_argument("--seed", type=int, help="likewise")
    evaluate.add_argument(
        "--allow-trained",
        action="store_true",
        help="evaluate on interactions that were trained on, too",
    )

    tune = add("tune", run_tune, "search for good hyperparameters")
    _add_data_arguments(tune)
    _add_search_arguments(tune)

    recommend = add("recommend", run_recommend, "use a saved model")
    recommend.add_argument("model", help="a file that `train` saved")
    recommend.add_argument("user_ids", nargs="+", help="ids of known users")
    recommend.add_argument("-k", type=int, default=10)

    report = add("report", run_report, "look at recorded runs")
    report.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="one or two folders that `train --log-dir` wrote",
    )
    report.add_argument("--figure", metavar="FILE", help="draw them as well")

    add("devices", run_devices, "list the devices that training would use")
    return parser


def _add_data_arguments(
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


def _add_search_arguments(parser):
    parser.add_argument(
        "--tuner",
        choices=["random", "bayesian", "hyperband", "grid"],
        default="random",
    )
    parser.add_argument("--max-trials", type=int, default=12)
    parser.add_argument(
        "--epochs", type=int, default=20, help="of a trial, at most"
    )
    parser.add_argument(
        "--embedding-dimension",
        type=int,
        nargs="+",
        default=[16, 32, 64, 128],
        help="dimensions to choose from",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        nargs="+",
        default=[1e-3, 1.0],
        help="two are the ends of a range, more are to choose from",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        nargs="+",
        help="likewise, of a softmax objective; not searched by default",
    )
    parser.add_argument(
        "--objective",
        nargs="+",
        choices=["auto", "rating", "full_softmax", "in_batch_softmax"],
        default=["auto"],
        help="what is learned; several are to choose from",
    )
    parser.add_argument(
        "--metric",
        default="val_ndcg_at_10",
        help="what is optimized, a name from the logs",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--directory",
        default="tuning",
        help="where the search is kept; the same command goes on with it",
    )
    parser.add_argument("--project-name", default="search")
    parser.add_argument(
        "--overwrite", action="store_true", help="begin anew instead"
    )
    parser.add_argument(
        "--plot", metavar="FILE", help="draw the trials, such as trials.png"
    )


def _print_warning(message, *_):
    print(f"Note: {message}")


def _use_virtual_devices(count: int | None):
    """Splits the CPU, which JAX does when it is first asked for devices."""
    if count is None:
        return
    name = "--xla_force_host_platform_device_count"
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags = [flag for flag in flags if not flag.startswith(name)]
    os.environ["XLA_FLAGS"] = " ".join([*flags, f"{name}={count}"])
    from keras_dp_retrieval.distribution import device_names

    found = sum(name.startswith("cpu:") for name in device_names())
    if found != count:
        raise RuntimeError(
            "`--virtual-devices` must be set before JAX looks for devices. "
            f"Received: {count}, but JAX already has {found}. Start a new "
            "process."
        )


def run_train(args) -> int:
    import keras

    import keras_dp_retrieval as kdr
    from keras_dp_retrieval.interruption import LastWholeEpoch

    if args.objective == "recipe" and args.steps_per_execution is not None:
        raise ValueError(
            "`--steps-per-execution` goes with an `--objective` other than "
            "`recipe`, which chooses its own. Received: "
            f"--steps-per-execution {args.steps_per_execution}."
        )
    data = _load_data(args, _split_of(args))
    keras.utils.set_random_seed(args.seed)
    mesh = kdr.data_parallel().device_mesh
    print(f"Devices ({mesh.devices.size}): {', '.join(mesh.devices)}")
    print(f"Data: {data.description}")
    throughput = kdr.DistributionAwareCallback(log_dir=args.log_dir)
    last_epoch = LastWholeEpoch()
    fit = _fit_recipe if args.objective == "recipe" else _fit_objective
    try:
        model = fit(data, args, [throughput, last_epoch])
        throughput.report()
        _print_metrics(kdr.evaluate(model, data, split="test"), data)
        _print_recommendations(model, data, mesh.devices.size)
        model.save(args.output)
    except KeyboardInterrupt:
        saved = last_epoch.save_beside(args.output)
        raise KeyboardInterrupt(saved) from None
    print(f"Saved {args.output}.")
    return 0


def _fit_recipe(data, args, callbacks):
    import keras_dp_retrieval as kdr

    given = {
        "epochs": args.epochs,
        "embedding_dimension": args.embedding_dimension,
        "learning_rate": args.learning_rate,
        "batch_size": args.batch_size,
    }
    overrides = {k: v for k, v in given.items() if v is not None}
    return kdr.fit_recipe(
        data,
        args.seed,
        verbose=_verbosity(),
        callbacks=callbacks,
        **overrides,
    )


def _verbosity() -> int:
    """Bars are for a terminal; a file gets one line for each epoch."""
    return 1 if sys.stdout.isatty() else 2


def _fit_objective(data, args, callbacks):
    """Trains on single interactions; `rating` is the tutorial's recipe."""
    import keras

    import keras_dp_retrieval as kdr

    is_tutorial = args.objective == "rating"
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, args.embedding_dimension or 32, objective=args.objective
    )
    rate = args.learning_rate
    if rate is None:
        rate = 0.2 if is_tutorial else 0.1
    model.compile(
        optimizer=keras.optimizers.Adagrad(rate),
        steps_per_execution=args.steps_per_execution or 1,
    )
    model.fit(
        data.train,
        validation_data=data.validation,
        validation_freq=5 if is_tutorial else 1,
        epochs=args.epochs or (50 if is_tutorial else 20),
        verbose=_verbosity(),
        callbacks=callbacks,
    )
    return model


def _split_of(args) -> str:
    """The split asked for; the tutorial's recipe has its own."""
    if args.split:
        return args.split
    is_tutorial = args.objective == "rating" and args.version == "100k"
    return "tutorial" if is_tutorial else "random"


def run_evaluate(args) -> int:
    import keras_dp_retrieval as kdr

    model = _load_model(args.model)
    data = _load_data_of(model, args)
    print(f"Data: {data.description}")
    metrics = kdr.evaluate(
        model, data, split="test", allow_trained=args.allow_trained
    )
    _print_metrics(metrics, data)
    return 0


def _load_model(path):
    import keras_dp_retrieval as kdr

    return kdr.TwoTowerRetrieval.load(path)


def _load_data_of(model, args):
    """The data set that the model was made for, unless told otherwise."""
    known = model.trained_on or {}
    if "version" not in known:
        print(
            "Note: the file does not say which split of MovieLens it was "
            "trained on, so that nobody can tell whether it was trained on "
            "the test part."
        )
    # The order of the rows, and so a random split, depends on the source.
    if args.source is None and args.data_dir is None:
        args.source = known.get("source")
    args.version = args.version or known.get("version", "100k")
    if args.seed is None:
        args.seed = known.get("seed", 42)
    fractions = {
        name: known[name]
        for name in ("test_fraction", "validation_fraction")
        if name in known
    }
    split = args.split or known.get("split", "random")
    return _load_data(args, split, **fractions)


def run_report(args) -> int:
    from keras_dp_retrieval import report

    print(report.report(args.runs, args.figure))
    return 0


def run_tune(args) -> int:
    # Choosing by the test part would make its figures too good.
    data = _load_data(args, args.split or "random")
    print(f"Data: {data.description}")
    # Importing it takes seconds.
    from keras_dp_retrieval import tuning

    try:
        result = _search(tuning, data, args)
    except KeyboardInterrupt:
        folder = pathlib.Path(args.directory) / args.project_name
        raise KeyboardInterrupt(
            f"The same command goes on with what is in {folder}"
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
        model_objective=args.objective,
        objective=args.metric,
        directory=args.directory,
        project_name=args.project_name,
        seed=args.seed,
        overwrite=args.overwrite,
    )


def run_recommend(args) -> int:
    model = _load_model(args.model)
    vocabulary = model.user_vocabulary
    users = args.user_ids
    if vocabulary is None or vocabulary.ids.dtype.kind in "iu":
        users = [_whole_number(user) for user in users]
    ids, scores = model.recommend(users, k=args.k)
    for user, user_ids, user_scores in zip(users, ids, scores, strict=True):
        _print_list(model, user, user_ids, user_scores)
    return 0


def run_devices(args) -> int:
    from keras_dp_retrieval import distribution

    distribution.require_jax("`devices`")
    names = distribution.device_names()
    print(f"{len(names)} device(s): {', '.join(names)}")
    return 0


def _load_data(args, split: str, **fractions):
    """The data set asked for, or else the best one that is there."""
    import keras_dp_retrieval as kdr

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


def _print_metrics(metrics: dict, data):
    print(f"Test part, whole catalogue, seen movies left out{_mark(data)}:")
    for name, value in metrics.items():
        print(f"  {name:32} {value:.4f}")


def _print_recommendations(model, data, num_users: int):
    """One user a device, as the tutorial does."""
    rng = np.random.default_rng(data.seed)
    users = rng.choice(
        data.user_vocabulary.ids, min(num_users, data.num_users - 1), False
    )
    ids, scores = model.recommend(users, k=10)
    for user, user_ids, user_scores in zip(users, ids, scores, strict=True):
        _print_list(model, user, user_ids, user_scores, _mark(data))


def _print_list(model, user, ids, scores, mark=""):
    print(f"Recommended for user {user}{mark}:")
    for candidate, score in zip(ids, scores, strict=True):
        if np.isfinite(score):
            title = model.candidate_titles.get(candidate, "")
            print(f"  {score:7.3f}  {candidate:>6}  {title}")


def _mark(data) -> str:
    return " (SYNTHETIC data)" if data.is_synthetic else ""


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"This model's user ids are whole numbers. Received: {text!r}."
        ) from None
