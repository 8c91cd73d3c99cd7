"""`train`: trains on your file or on MovieLens, and saves the model."""

import os
import shlex
import sys

import keras
import numpy as np

import keras_dp_retrieval as kdr
from keras_dp_retrieval import losses
from keras_dp_retrieval._keras.seeds import set_random_seed
from keras_dp_retrieval.cli import inputs, printing
from keras_dp_retrieval.cli.data_arguments import (
    SPLIT_HELP,
    add_data_arguments,
    check_data_arguments,
)
from keras_dp_retrieval.cli.interruption import LastWholeEpoch
from keras_dp_retrieval.data._tensorflow import import_tensorflow

HELP = "train on your interactions, or on MovieLens, and save the model"

TOGETHER = True
COMPILES = True

EXAMPLES = {
    "": "MovieLens 100K",
    "--interactions shop.csv --filter event=purchase": "your own file",
    "--interactions shop.csv --resume runs/shop": "goes on if it was killed",
    "--objective rating --epochs 50": "the recipe of the Keras tutorial",
}


def add_arguments(parser):
    add_data_arguments(
        parser,
        SPLIT_HELP + "; of MovieLens the tutorial's own with `--objective "
        "rating`",
    )
    _add_training_arguments(parser.add_argument_group("training"))
    _add_files(parser.add_argument_group("files that are written"))


def _add_training_arguments(group):
    group.add_argument(
        "--objective",
        choices=["recipe", *losses.OBJECTIVES],
        default="recipe",
        help="what is learned; `recipe` chooses by the shape of the data, "
        "`rating` follows the Keras tutorial; recipe by default",
    )
    for name, kind, default in (
        ("--epochs", int, "50 of `rating`, 20 of a softmax"),
        ("--embedding-dimension", int, "32"),
        ("--learning-rate", float, "0.2 of `rating`, 0.1 of a softmax"),
        ("--steps-per-execution", int, "1"),
    ):
        group.add_argument(
            name,
            type=kind,
            metavar="N" if kind is int else "X",
            help=f"{default} by default; the recipe chooses its own",
        )
    group.add_argument(
        "--seed",
        type=int,
        default=42,
        metavar="N",
        help="of the split and of the training; 42 by default",
    )


def _add_files(group):
    group.add_argument(
        "--resume",
        metavar="FOLDER",
        help="save what is trained there as it goes; the same command goes on "
        "with it after the program was killed",
    )
    group.add_argument(
        "--log-dir", metavar="FOLDER", help="for TensorBoard and `report`"
    )
    group.add_argument(
        "--output",
        metavar="FILE",
        help="model.keras by default, of MovieLens movies.keras; Ctrl-C saves "
        "what the last whole epoch left as model.interrupted.keras instead",
    )


def check(args) -> None:
    check_data_arguments(args)
    if args.output is None:
        is_movielens = args.interactions is None
        args.output = "movies.keras" if is_movielens else "model.keras"
    if args.objective == "recipe" and args.steps_per_execution is not None:
        raise ValueError(
            "`--steps-per-execution` goes with an `--objective` other than "
            "`recipe`, which chooses its own. Received: "
            f"--steps-per-execution {args.steps_per_execution}."
        )


def run(args) -> int:
    # Else Keras does so, and not quietly, when it saves the model: at Ctrl-C.
    import_tensorflow()
    data = inputs.load_data(args, _split_of(args))
    inputs.check_ratings(data, [args.objective])
    set_random_seed(args.seed)
    mesh = kdr.data_parallel().device_mesh
    print(f"Devices ({mesh.devices.size}): {', '.join(mesh.devices)}")
    printing.print_data(data)
    throughput = kdr.DistributionAwareCallback(log_dir=args.log_dir)
    last_epoch = LastWholeEpoch()
    fit = _fit_recipe if args.objective == "recipe" else _fit_objective
    try:
        model = fit(data, args, [throughput, last_epoch])
        throughput.report()
        printing.print_metrics(kdr.evaluate(model, data, split="test"), data)
        _print_recommendations(model, data, mesh.devices.size)
        model.save(args.output)
    except KeyboardInterrupt:
        saved = last_epoch.save_beside(args.output)
        raise KeyboardInterrupt(saved) from None
    _print_what_is_next(model, args)
    return 0


def _print_what_is_next(model, args):
    megabytes = os.path.getsize(args.output) / 1e6
    program, file = "keras-dp-retrieval", shlex.quote(args.output)
    user = shlex.quote(str(model.user_vocabulary.ids[0]))
    data = ""
    if args.interactions is not None:
        data = f" --interactions {shlex.quote(args.interactions)}"
    print(
        f"Saved {args.output} ({megabytes:.1f} MB). Next:\n"
        f"  {program} recommend {file} {user}\n"
        f"  {program} evaluate {file}{data}"
    )


def _fit_recipe(data, args, callbacks):
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
        resume=args.resume,
        **overrides,
    )


def _verbosity() -> int:
    """Bars are for a terminal; a file gets one line for each epoch."""
    return 1 if sys.stdout.isatty() else 2


def _fit_objective(data, args, callbacks):
    """Trains on single interactions; `rating` is the tutorial's recipe."""
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
    if args.resume is not None:
        callbacks.append(kdr.ResumeTraining(args.resume))
    model.fit(
        data.train,
        validation_data=data.validation,
        validation_freq=5 if is_tutorial else 1,
        epochs=args.epochs or (50 if is_tutorial else 20),
        verbose=_verbosity(),
        callbacks=callbacks,
    )
    return model


def _split_of(args) -> str | None:
    """The split asked for; the tutorial's recipe has its own."""
    is_tutorial = (
        args.interactions is None
        and args.objective == "rating"
        and args.version in (None, "100k")
    )
    return args.split or ("tutorial" if is_tutorial else None)


def _print_recommendations(model, data, num_users: int):
    """One user a device, as the tutorial does."""
    rng = np.random.default_rng(data.seed)
    users = rng.choice(
        data.user_vocabulary.ids, min(num_users, data.num_users - 1), False
    )
    ids, scores = model.recommend(users, k=10)
    for user, user_ids, user_scores in zip(users, ids, scores, strict=True):
        printing.print_list(
            model,
            f"user {user}",
            user_ids,
            user_scores,
            printing.synthetic_mark(data),
        )
