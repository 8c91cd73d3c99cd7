"""Does `fit_recipe` retrieve better than the peers one would use instead?

MovieLens 100K under two protocols, written out in the README of this folder:
P1, a random fifth held out, for three splits, and P2, the last interaction of
each user held out. Everybody ranks the full catalogue without what the user
has had, and every row of the table is computed by the same functions of
`keras_dp_retrieval.metrics`.

    python benchmarks/bench_recipe.py --data-dir data
    python benchmarks/bench_recipe.py --data-dir data --part test
    python benchmarks/bench_recipe.py --data-dir data --tune
    python benchmarks/bench_recipe.py --data-dir data --ablation
    python benchmarks/bench_recipe.py --shapes
    python benchmarks/bench_recipe.py --csv npm.csv debian.csv

`--part validation` learns from train and scores validation. `--part test`
learns from train and validation and scores test, once, with settings that
were chosen before. `--tune` looks for the peers' settings on validation.
`--ablation` changes one thing at a time in our recipe, on validation.
`--shapes` is synthetic data of other shapes, and `--csv` files with the columns
`user_id` and `candidate_id`, such as `dependencies.py` writes: there the peers
are tuned again.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import time
import warnings

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np
from movielens_folder import add_data_dir, ml_100k
from peers import PEERS, Unavailable, model_scores

import keras_dp_retrieval as kdr
from keras_dp_retrieval import metrics

SPLITS = {"p1": "random", "p2": "leave_last_out"}
# Of P1's split, and of whatever is random in the methods. The splits share
# their ratings: they are no independent replications.
SEEDS = {"p1": (42, 43, 44), "p2": (42,)}
KS = (10, 20)
RECIPE = "fit_recipe"
REFERENCE = "EASE"

# One change of the recipe each, `(name, overrides)`.
ABLATIONS = [
    ("as it is", {}),
    ("ratings ignored", {"rating_weight": 0.0}),
    ("no dropout of items", {"item_dropout": 0.0}),
    ("no dropout of the query", {"query_dropout": 0.0}),
    ("dimension 64", {"embedding_dimension": 64}),
    ("temperature 0.25", {"temperature": 0.25}),
    ("temperature 0.1", {"temperature": 0.1}),
    ("no weight decay", {"weight_decay": 0.0}),
    ("15 epochs", {"epochs": 15}),
]

# `from_synthetic`'s arguments: users, candidates, interactions, options.
SHAPES = {
    "dense": (1_000, 1_700, 100_000, {}),
    "sparse": (8_000, 11_000, 226_000, {}),
    "long tail": (4_000, 8_000, 66_000, {"popularity_exponent": 1.2}),
    "many candidates": (2_000, 20_000, 84_000, {"num_tastes": 40}),
}
SHAPE_PEERS = ("popularity", "item-kNN", "iALS", "EASE")


# The data of the protocols.


def load(protocol, seed, data_dir):
    """The data of a protocol: train, validation and test."""
    return kdr.MovieLensRetrievalDataset(
        "100k",
        source="files",
        data_dir=ml_100k(data_dir),
        split=SPLITS[protocol],
        seed=seed,
        validation_fraction=0.125,
    )


def check_protocol(data, protocol, seed, data_dir):
    """Raises if the parts are not, row by row, what the README says."""
    table = np.loadtxt(ml_100k(data_dir) / "u.data", dtype="int64")
    if protocol == "p1":
        order = np.random.RandomState(seed).permutation(100_000)
        parts = order[:70_000], order[70_000:80_000], order[80_000:]
    else:
        order = np.lexsort((np.arange(100_000), table[:, 3], table[:, 0]))
        last = np.cumsum(np.bincount(table[:, 0])[1:]) - 1
        rest = np.setdiff1d(np.arange(100_000), [last, last - 1])
        parts = order[rest], order[last - 1], order[last]
    for name, rows in zip(("train", "validation", "test"), parts, strict=True):
        ratings = data.ratings(name)
        ours = np.stack([ratings.user_rows, ratings.candidate_rows], axis=1)
        # No pair comes twice in the file, so sets of pairs identify rows.
        if {*map(tuple, ours)} != {*map(tuple, table[rows, :2])}:
            raise AssertionError(f"{protocol}, seed {seed}: {name} differs.")


# What a method's lists are worth.


def best_rows(task, scores, chunk_size=512):
    """The best `max(KS)` unseen candidates of each user, `(num_users, 20)`.

    By falling score, equal scores by rising row, as `evaluate` does; -1 where
    none is left.
    """
    lists = []
    for start in range(0, len(task.user_rows), chunk_size):
        users = task.user_rows[start : start + chunk_size]
        chunk = np.array(scores(users), "float32")
        chunk[:, ~task.real] = -np.inf
        for row, seen in zip(chunk, task.seen.of(users), strict=True):
            row[seen] = -np.inf
        best = np.argsort(-chunk, axis=1, kind="stable")[:, : KS[-1]]
        left = np.take_along_axis(chunk, best, axis=1) > -np.inf
        lists.append(np.where(left, best, -1))
    return np.concatenate(lists)


def worth_of_lists(task, rows):
    """`(metrics, NDCG@10 of each user)`; the latter by row of `task`."""
    pairs = task.user_rows.astype("int64")[:, None] * len(task.real) + rows
    hits = np.isin(pairs, task.held_out) & (rows >= 0)
    of_users = metrics.ndcg_at_k(hits, task.num_held_out, 10)
    shown = np.unique(rows[:, :10])
    found = {
        "ndcg_at_10": of_users.mean(),
        "recall_at_20": metrics.recall_at_k(hits, task.num_held_out, 20).mean(),
        "hit_rate_at_10": metrics.hit_rate_at_k(hits, 10).mean(),
        "coverage_at_10": (shown >= 0).sum() / task.real.sum(),
    }
    return {name: float(value) for name, value in found.items()}, of_users


def measure(fit, data, part):
    """Fits one method and scores one part: a dict for the table.

    Args:
        fit: `fit()` -> a model of ours, or `scores` as in `peers.py`.
        data: What the part belongs to.
        part: str.
    """
    start = time.perf_counter()
    fitted = fit()
    seconds = time.perf_counter() - start
    task = metrics.RankingTask.prepare(data, part, KS)
    is_ours = hasattr(fitted, "candidate_vectors")
    scores = model_scores(fitted) if is_ours else fitted
    found, of_users = worth_of_lists(task, best_rows(task, scores))
    if is_ours:
        # The figures are those of `evaluate`, exact on the device; those of
        # the users come from NumPy, where sums are rounded otherwise.
        exact = kdr.evaluate(fitted, data, part, KS)
        for name, value in found.items():
            if abs(exact[name] - value) > 2e-3:
                raise AssertionError(f"{name}: {exact[name]} and {value}")
        found = {**exact, **{name: exact[name] for name in found}}
    by_user = np.full(data.num_users, np.nan)
    by_user[task.user_rows] = of_users
    return {**found, "seconds": seconds, "by_user": by_user}


def part_of(data, part):
    """The data to learn from and to score: for test, validation is learned."""
    return data.with_validation_in_train() if part == "test" else data


def fit_peer(name, data, seed, settings):
    return lambda: PEERS[name].fit(data, seed, **settings)


def fit_ours(data, part, seed, overrides):
    """`fit_recipe` sees the data as a user has it, and does its own refit."""
    if not hasattr(kdr, "fit_recipe"):
        raise Unavailable("this version of the package has no `fit_recipe`")
    if part == "validation":
        overrides = {"validation_in_train": False, **overrides}
    return lambda: kdr.fit_recipe(data, seed=seed, **overrides)


# Tables.


def mean_of(runs):
    """The mean over seeds of what `measure` found."""
    names = [name for name in runs[0] if name != "by_user"]
    found = {name: float(np.mean([r[name] for r in runs])) for name in names}
    found["ndcg_at_10_of_seeds"] = [run["ndcg_at_10"] for run in runs]
    return found


def paired_error(runs, reference_runs):
    """`(difference in NDCG@10, its standard error)`, paired by user.

    A user's share of the mean difference is added up over the seeds first:
    the splits share their users and ratings, so users are what varies.
    """
    shares = np.zeros(len(runs[0]["by_user"]))
    for run, reference in zip(runs, reference_runs, strict=True):
        difference = run["by_user"] - reference["by_user"]
        there = ~np.isnan(difference)
        shares[there] += difference[there] / there.sum() / len(runs)
    shares = shares[1:]  # Row 0 is nobody.
    spread = shares.std(ddof=1) * len(shares) ** 0.5
    return float(shares.sum()), float(spread)


COLUMNS = {
    "ndcg_at_10": "NDCG@10",
    "recall_at_20": "Recall@20",
    "hit_rate_at_10": "HR@10",
    "coverage_at_10": "coverage@10",
}


def table(all_runs, reference=REFERENCE):
    """Prints a Markdown table, and returns it as a dict.

    Args:
        all_runs: What `run_all` returned.
        reference: str. Whom the last column compares with.
    """
    titles = [*COLUMNS.values(), "seconds", f"NDCG@10 over {reference}"]
    print(f"| method | {' | '.join(titles)} |")
    print("|" + " --- |" * (len(titles) + 1))
    result = {}
    for name, runs in all_runs.items():
        if isinstance(runs, str):
            result[name] = {"left_out": runs}
            cells = [f"left out: {runs}"] + [""] * (len(titles) - 1)
        else:
            result[name] = found = mean_of(runs)
            cells = [f"{found[column]:.4f}" for column in COLUMNS]
            cells += [f"{found['seconds']:.1f}", ""]
            others = all_runs.get(reference, "")
            if name != reference and not isinstance(others, str):
                gain, error = paired_error(runs, others)
                found["over_reference"] = [gain, error]
                cells[-1] = f"{gain:+.4f} ± {error:.4f}"
        print(f"| {name} | {' | '.join(cells)} |")
    print(flush=True)
    return result


def run_all(methods, fit_of, datasets, part):
    """Runs every method on every data set: name to a list, or to a reason."""
    all_runs = {}
    for name in methods:
        try:
            all_runs[name] = [
                measure(fit_of(name, data, seed), part_of(data, part), part)
                for seed, data in datasets.items()
            ]
        except Unavailable as error:
            all_runs[name] = str(error)
    return all_runs


# What the script does.


def load_all(protocol, args):
    datasets = {}
    for seed in (protocol == "p1" and args.seeds) or SEEDS[protocol]:
        data = load(protocol, seed, args.data_dir)
        check_protocol(data, protocol, seed, args.data_dir)
        datasets[seed] = data
    return datasets


def compare(args):
    """The table of a protocol: the peers, as they were tuned, and ours."""
    results = {}
    for protocol in args.protocol:

        def fit_of(name, data, seed, protocol=protocol):
            if name == RECIPE:
                return fit_ours(data, args.part, seed, {})
            settings = PEERS[name].chosen.get(protocol, {})
            return fit_peer(name, part_of(data, args.part), seed, settings)

        print(f"{protocol}, {args.part}")
        datasets = load_all(protocol, args)
        results[protocol] = table(
            run_all(args.methods, fit_of, datasets, args.part)
        )
    return results


def tune(args):
    """The peers' settings, by NDCG@10 on validation."""
    results = {}
    for protocol in args.protocol:
        datasets = load_all(protocol, args)
        for name in args.methods:
            if name not in PEERS or not PEERS[name].grid:
                continue
            tried = []
            print(f"{protocol} {name}")
            for settings, found in trials(name, datasets, small=False):
                tried.append((settings, found))
                figures = f"NDCG@10 {found['ndcg_at_10']:.4f}, Recall@20 "
                figures += f"{found['recall_at_20']:.4f}"
                print(f"  {figures}: {settings}", flush=True)
            results[f"{protocol} {name}"] = tried
            print(f"  best: {best_of(tried)}", flush=True)
    return results


def trials(name, datasets, *, small):
    """Yields `(settings, figures on validation)` of a peer's grid."""
    for settings in PEERS[name].settings(small):
        runs = [
            measure(fit_peer(name, data, seed, settings), data, "validation")
            for seed, data in datasets.items()
        ]
        yield settings, mean_of(runs)


def best_of(tried):
    """The settings with the best NDCG@10."""
    return max(tried, key=lambda pair: pair[1]["ndcg_at_10"])[0]


def ablate(args):
    """An ablation of our recipe, on validation."""
    overrides = dict(ABLATIONS)
    results = {}

    def fit_of(name, data, seed):
        # Without trials, which might change more than the one thing.
        changes = {"tune": False, **overrides[name]}
        return fit_ours(data, "validation", seed, changes)

    for protocol in args.protocol:
        print(f"{protocol}, validation")
        datasets = load_all(protocol, args)
        results[protocol] = table(
            run_all(overrides, fit_of, datasets, "validation"),
            reference=ABLATIONS[0][0],
        )
    return results


def shapes(args):
    """Synthetic data of several shapes."""
    results = {}
    for shape in args.shapes or SHAPES:
        *sizes, options = SHAPES[shape]
        data = kdr.RetrievalDataset.from_synthetic(
            *sizes, **options, validation_fraction=0.125
        )
        results[shape] = tuned_table(shape, data, args.part)
    return results


def files(args):
    """The user's own data."""
    results = {}
    for path in args.csv:
        data = kdr.RetrievalDataset.from_csv(path, validation_fraction=0.125)
        results[path] = tuned_table(path, data, args.part)
    return results


def tuned_table(name, data, part):
    """A table with the peers' best settings for this data."""

    def fit_of(method, data, seed):
        if method == RECIPE:
            return fit_ours(data, part, seed, {})
        datasets = {seed: data}
        settings = best_of(trials(method, datasets, small=True))
        return fit_peer(method, part_of(data, part), seed, settings)

    print(f"{name}: {data.description}; {part}")
    datasets = {SEEDS["p1"][0]: data}
    methods = (*SHAPE_PEERS, RECIPE)
    return table(run_all(methods, fit_of, datasets, part))


def versions():
    """Versions of everything that affects the figures."""
    found = {"python": platform.python_version()}
    for name in ("numpy", "scipy", "implicit", "keras", "jax"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_dir(parser, required=False)
    parser.add_argument(
        "--part", choices=["validation", "test"], default="validation"
    )
    parser.add_argument(
        "--protocol", nargs="+", choices=SPLITS, default=list(SPLITS)
    )
    parser.add_argument("--seeds", type=int, nargs="+", help="of P1")
    names = [*PEERS, RECIPE]
    parser.add_argument("--methods", nargs="+", choices=names, default=names)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--tune", action="store_true")
    mode.add_argument("--ablation", action="store_true")
    mode.add_argument("--shapes", nargs="*", choices=SHAPES, metavar="SHAPE")
    mode.add_argument("--csv", nargs="+", metavar="FILE")
    args = parser.parse_args()
    if args.shapes is None and not args.csv and not args.data_dir:
        parser.error("--data-dir is needed but for --shapes and --csv")
    # The README describes every split but those by time.
    warnings.filterwarnings("ignore", message=".*test interactions are older")
    run = compare
    if args.tune or args.ablation:
        run = tune if args.tune else ablate
    elif args.csv:
        run = files
    elif args.shapes is not None:
        run = shapes
    results = run(args)
    print(
        json.dumps(
            {
                "benchmark": f"recipe, {run.__name__}",
                "part": "validation" if run in (tune, ablate) else args.part,
                "results": results,
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, "
                f"{len(os.sched_getaffinity(0))} used",
                **versions(),
            }
        )
    )


if __name__ == "__main__":
    main()
