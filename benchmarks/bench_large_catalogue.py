"""Which objective learns best in equal time, with many candidates?

Up to 100,000 candidates the recipe takes the full softmax. Beyond, this
compares what there is on made-up data of 300,000 candidates and five million
interactions (`large_data.py` says what they are like), in equal CPU time of
one thread, compilation included: the full softmax over a user at a time, at
once and in chunks, in-batch and mixed negatives, buckets (SCE), and iALS.

    pip install implicit
    taskset -c 1 python benchmarks/bench_large_catalogue.py --results large.json
    taskset -c 1 python benchmarks/bench_large_catalogue.py --tune
    python benchmarks/bench_large_catalogue.py --users 400 --candidates 2000 \
        --rows 20000 --seconds 5 --num-evaluated 100

Ours are all the recipe's tower and optimizer, at 64 dimensions, with another
objective; the learning rate falls as a cosine, to 0 where the time ends, so
that what stands at half of the time would be better if that were all. Everybody
ranks the whole catalogue without what the user has had, for the same users.
Methods run one after the other, each in a process of its own; memory is the
peak of that process, with the data and what ranks. What takes no part in
learning (reading the data, ranking) is not counted.

`--tune` tries the settings of `GRID` on a tenth of the users and candidates,
whose held-out part is the only one that settings were chosen by.
"""

import argparse
import dataclasses
import itertools
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np
from large_data import LargeData, large_data

DIM = 64
KS = (10, 20)
# Shares of the time after which a method is measured.
POINTS = (0.25, 0.5, 1.0)

# Of ours: `by_user` says whether a batch is of users, with all they have, or
# of interactions.
OURS = {
    "full softmax": {"by_user": True},
    "full softmax, chunks": {"by_user": True, "chunk_size": 32_768},
    "in-batch": {"by_user": False},
    "in-batch, small batches": {"by_user": False},
    "mixed negatives": {"by_user": False, "num_uniform_negatives": 4096},
    "buckets (SCE)": {"by_user": False, "buckets": True},
}
PEERS = ("iALS", "ALS (implicit)")
METHODS = (*OURS, *PEERS)
REFERENCE = "in-batch"

# What is made up, and what settings are chosen on.
SIZES = {
    "users": 80_000,
    "candidates": 300_000,
    "rows": 5_000_000,
    "seconds": 480,
    "seed": 0,
}
TUNED_ON = {
    "users": 8_000,
    "candidates": 30_000,
    "rows": 500_000,
    "seconds": 30,
    "seed": 1,
}

# What `--tune` tries, all with all.
OF_USERS = {
    "batch_size": (256,),
    "learning_rate": (0.01,),
    "temperature": (0.07, 0.1, 0.15),
    "weight_decay": (0.0,),
}
OF_INTERACTIONS = {**OF_USERS, "batch_size": (4096,)}
GRID = {
    name: OF_USERS if options["by_user"] else OF_INTERACTIONS
    for name, options in OURS.items()
    if name != "in-batch, small batches"  # As the recipe had it.
} | {
    "iALS": {"l2": (0.003, 0.01, 0.03), "unobserved": (0.03, 0.1)},
    "ALS (implicit)": {
        "regularization": (10.0, 30.0),
        "alpha": (1.0, 3.0, 10.0),
    },
}


def grid_of(name) -> list[dict]:
    values = itertools.product(*GRID[name].values())
    return [dict(zip(GRID[name], each, strict=True)) for each in values]


# The temperatures were best on that, of those that the README lists; of small
# batches, what the recipe had; of the peers, all of what it lists.
USERS = {"batch_size": 256, "learning_rate": 0.01, "weight_decay": 0.0}
PAIRS = {**USERS, "batch_size": 4096}
CHOSEN: dict[str, dict] = {
    "full softmax": {**USERS, "temperature": 0.1},
    "full softmax, chunks": {**USERS, "temperature": 0.1},
    "in-batch": {**PAIRS, "temperature": 0.07},
    "in-batch, small batches": {
        "batch_size": 1000,
        "learning_rate": 0.01,
        "weight_decay": 0.5,
        "temperature": 0.14,
    },
    "mixed negatives": {**PAIRS, "temperature": 0.07},
    "buckets (SCE)": {**PAIRS, "temperature": 0.1},
    "iALS": {"l2": 0.01, "unobserved": 0.1},
    "ALS (implicit)": {"regularization": 30.0, "alpha": 3.0},
}

ONE_THREAD = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false "
    "intra_op_parallelism_threads=1",
}


class Budget:
    """CPU seconds of this process, without what is not learning.

    Args:
        seconds: float.
        measure: Function from `scores`, as in `peers.py`, to a dict.
        clock: Function that returns seconds.
    """

    def __init__(self, seconds, measure, clock=time.process_time):
        self._seconds, self._measure = seconds, measure
        self._clock, self._begin = clock, clock()
        self.points = []

    def share(self) -> float:
        """What is used up, from 0 on; 1 is the end."""
        return (self._clock() - self._begin) / self._seconds

    def measure_if_due(self, scores, **notes) -> bool:
        """Ranks at the points that are reached; returns whether it is over.

        Args:
            scores: Function without arguments that makes `scores`.
            **notes: What to keep beside the figures.
        """
        share = self.share()
        due = POINTS[len(self.points)]
        if share < due:
            return False
        started = self._clock()
        found = {"cpu_seconds": share * self._seconds, **notes}
        found |= self._measure(scores())
        while len(self.points) < len(POINTS) and share >= due:
            self.points.append(found)
            due = (*POINTS, np.inf)[len(self.points)]
        self._begin += self._clock() - started
        return len(self.points) == len(POINTS)


# What lists are worth.


@dataclasses.dataclass
class Ranking:
    """The users who are evaluated, and what is held out of them.

    Attributes:
        user_rows: int `(num_users,)`.
        held_out: list of int arrays, candidates.
        seen: list of int arrays, candidates of the train part.
    """

    user_rows: np.ndarray
    held_out: list[np.ndarray]
    seen: list[np.ndarray]

    @classmethod
    def of(cls, data: LargeData, num_users: int, seed=0) -> "Ranking":
        """A sample of the users with something held out."""
        users = np.unique(data.user_rows[data.is_held_out])
        draw = np.random.default_rng(seed).permutation(len(users))
        users = np.sort(users[draw[:num_users]])
        starts = np.searchsorted(data.user_rows, users)
        ends = np.searchsorted(data.user_rows, users, side="right")
        held_out, seen = [], []
        for start, end in zip(starts, ends, strict=True):
            own = data.candidate_rows[start:end]
            is_held_out = data.is_held_out[start:end]
            held_out.append(own[is_held_out])
            seen.append(own[~is_held_out])
        return cls(users, held_out, seen)

    def worth(self, scores, chunk_size=64) -> dict:
        """Means over the users, and what each of them has (`by_user`).

        Args:
            scores: As in `peers.py`, for users from 0.
            chunk_size: int. Users at a time.
        """
        hits = np.zeros((len(self.user_rows), KS[-1]), bool)
        for start in range(0, len(self.user_rows), chunk_size):
            chunk = np.array(scores(self.user_rows[start : start + chunk_size]))
            for index, row in enumerate(chunk, start):
                row[self.seen[index]] = -np.inf
                ranks = ranks_of(row, self.held_out[index])
                hits[index, ranks[ranks < KS[-1]]] = True
        numbers = np.array([len(held_out) for held_out in self.held_out])
        return worth_of_hits(hits, numbers)


def ranks_of(scores, rows):
    """The ranks of some candidates, from 0; of equal ones, the lower row's."""
    if not np.all(scores < np.inf):  # Not a number is not less, either.
        raise AssertionError("Some scores are no finite numbers.")
    ranks = np.empty(len(rows), int)
    for index, row in enumerate(rows):
        above = np.count_nonzero(scores > scores[row])
        ranks[index] = above + np.count_nonzero(scores[:row] == scores[row])
    return ranks


def worth_of_hits(hits, num_held_out):
    from keras_dp_retrieval import metrics

    found = {
        "ndcg_at_10": metrics.ndcg_at_k(hits[:, :10], num_held_out, 10),
        "ndcg_at_20": metrics.ndcg_at_k(hits, num_held_out, 20),
        "recall_at_20": metrics.recall_at_k(hits, num_held_out, 20),
    }
    by_user = found["ndcg_at_10"].tolist()
    means = {name: float(of_users.mean()) for name, of_users in found.items()}
    return {**means, "by_user": by_user}


# Methods: each learns until the budget is used up, and measures on the way.


def dataset(data: LargeData):
    """The same as a `RetrievalDataset`; its rows are one higher."""
    import keras_dp_retrieval as kdr

    learned, held = ~data.is_held_out, data.is_held_out
    found = kdr.RetrievalDataset.from_interactions(
        data.user_rows[learned],
        data.candidate_rows[learned],
        test=(data.user_rows[held], data.candidate_rows[held]),
        validation_fraction=0.0,
        is_synthetic=True,
    )
    if found.num_candidates != len(data.popularity) + 1:
        raise AssertionError("Rows are not ids + 1.")
    return found


def objective_of(by_user, temperature, buckets=False, **options):
    import keras_dp_retrieval as kdr

    if by_user:
        return kdr.FullSoftmax(temperature, **options)
    kind = kdr.BucketedSoftmax if buckets else kdr.InBatchSoftmax
    return kind(temperature, seed=0, **options)


def train_ours(
    data,
    budget,
    *,
    by_user,
    batch_size,
    learning_rate,
    temperature,
    weight_decay,
    **options,
):
    """The model of the recipe, with an objective, for as long as it may."""
    import keras

    from keras_dp_retrieval._keras.seeds import set_random_seed
    from keras_dp_retrieval.recipe import build_model, choose_recipe, training

    set_random_seed(0)
    recipe = choose_recipe(
        data,
        objective="full_softmax" if by_user else "in_batch_softmax",
        order="ignored",
        embedding_dimension=DIM,
        batch_size=batch_size,
    )
    model = build_model(data, recipe)
    model.objective = objective_of(by_user, temperature, **options)
    model.compile(
        keras.optimizers.AdamW(
            learning_rate, weight_decay=weight_decay, beta_2=0.99
        )
    )
    examples = training.examples(data, recipe)
    num_steps, loss = 0, float("nan")
    while True:
        for group in examples.numpy_groups(1):
            batch = keras.tree.map_structure(lambda array: array[0], group)
            share = min(budget.share(), 1.0)
            model.optimizer.learning_rate.assign(
                learning_rate * (1 + np.cos(np.pi * share)) / 2
            )
            loss = float(model.train_on_batch(*batch))
            num_steps += 1
            if budget.measure_if_due(
                lambda: scores_of(model),
                epochs=num_steps / examples.num_batches,
                loss=loss,
            ):
                return


def scores_of(model):
    """`scores` for users from 0, of a model of ours."""
    from peers import model_scores

    scores = model_scores(model)
    return lambda users: scores(np.asarray(users) + 1)[:, 1:]


def train_ials(data, budget, *, l2, unobserved):
    """Rendle et al. 2022, in NumPy; `peers.py`."""
    import peers

    for number, scores in enumerate(
        peers.ials_sweeps(data, 0, dim=DIM, l2=l2, unobserved=unobserved), 1
    ):
        if budget.measure_if_due(
            lambda scores=scores: _from_zero(scores), epochs=number
        ):
            return


def train_implicit(data, budget, *, regularization, alpha):
    """`AlternatingLeastSquares` of the package `implicit`."""
    import implicit.cpu.als
    import peers

    class Over(Exception):
        pass

    model = implicit.cpu.als.AlternatingLeastSquares(
        factors=DIM,
        regularization=regularization,
        alpha=alpha,
        iterations=10_000,
        random_state=0,
        num_threads=1,
    )

    def after_sweep(number, *_):
        scores = peers.dot_products(model.user_factors, model.item_factors)
        if budget.measure_if_due(lambda: _from_zero(scores), epochs=number + 1):
            raise Over

    try:
        model.fit(peers.matrix(data), show_progress=False, callback=after_sweep)
    except Over:
        pass


def _from_zero(scores):
    return lambda users: scores(np.asarray(users) + 1)[:, 1:]


def learn(name, settings, seconds, data, ranking) -> list[dict]:
    """Trains one method; returns what it is worth at the points of time."""
    data.by_interaction(8)  # This imports TensorFlow: that is not learning.
    budget = Budget(seconds, ranking.worth)
    if name == "iALS":
        train_ials(data, budget, **settings)
    elif name == "ALS (implicit)":
        train_implicit(data, budget, **settings)
    else:
        train_ours(data, budget, **OURS[name], **settings)
    return budget.points


def run_one(path, name, seconds, num_evaluated):
    """Trains one method in this process; prints its points as JSON."""
    made_up = LargeData.load(path)
    ranking = Ranking.of(made_up, num_evaluated)
    points = learn(name, CHOSEN[name], seconds, dataset(made_up), ranking)
    # Of Linux, in KiB.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"points": points, "peak_gib": peak}))


# Several of them.


def run_methods(path, args) -> dict[str, dict]:
    """Runs methods one after the other, and prints a line for each point.

    Those that stand in the file of results are not run again.
    """
    kept = pathlib.Path(args.results) if args.results else None
    found = json.loads(kept.read_text()) if kept and kept.exists() else {}
    for name in args.methods:
        if name in found:
            continue
        result = run_alone(path, name, args)
        if result is None:
            print(f"# {name}: it failed", flush=True)
            continue
        found[name] = {"settings": CHOSEN[name], **result}
        for point in result["points"]:
            print(f"# {name}: {short(point)}", flush=True)
        if kept:
            kept.write_text(json.dumps(found))
    return found


def run_alone(path, name, args) -> dict | None:
    """What `run_one` prints in a process of its own; None if it fails."""
    command = [sys.executable, __file__, "--one", name, "--data", str(path)]
    command += ["--seconds", str(args.seconds)]
    command += ["--num-evaluated", str(args.num_evaluated)]
    done = subprocess.run(
        command,
        env={**os.environ, **ONE_THREAD},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        return None
    return json.loads(done.stdout.splitlines()[-1])


def short(point) -> str:
    figures = f"NDCG@10 {point['ndcg_at_10']:.4f}, after "
    figures += f"{point['cpu_seconds']:.0f} s and {point['epochs']:.2f} epochs"
    return figures


def references(made_up: LargeData, ranking: Ranking) -> dict:
    """What bounds everybody: popularity, and what the data are drawn from."""
    learned = made_up.candidate_rows[~made_up.is_held_out]
    counts = np.bincount(learned, minlength=len(made_up.popularity))
    counts = counts.astype("float32")
    return {
        "popularity": ranking.worth(
            lambda users: np.repeat(counts[None], len(users), axis=0)
        ),
        "the truth": ranking.worth(made_up.probabilities),
    }


def table(bounds: dict, runs: dict[str, dict]) -> None:
    """Prints the figures at the end as a Markdown table, then the curves."""
    titles = ["method", "CPU s", "epochs", "peak GiB", "NDCG@10", "NDCG@20"]
    titles += ["Recall@20", f"NDCG@10 over {REFERENCE}"]
    print(f"\n| {' | '.join(titles)} |\n|{' --- |' * len(titles)}")
    for name, worth in bounds.items():
        cells = [name, "", "", "", *figures(worth), ""]
        print(f"| {' | '.join(cells)} |")
    ends = {name: run["points"][-1] for name, run in runs.items()}
    for name, end in ends.items():
        cells = [name, f"{end['cpu_seconds']:.0f}", f"{end['epochs']:.2f}"]
        cells += [f"{runs[name]['peak_gib']:.1f}", *figures(end)]
        cells.append(over(end, ends.get(REFERENCE)))
        print(f"| {' | '.join(cells)} |")
    shares = [f"{share:.0%} of the time" for share in POINTS]
    print(f"\n| NDCG@10 after | {' | '.join(shares)} |")
    print(f"|{' --- |' * (1 + len(shares))}")
    for name, run in runs.items():
        cells = [f"{point['ndcg_at_10']:.4f}" for point in run["points"]]
        print(f"| {name} | {' | '.join(cells)} |")


def figures(worth) -> list[str]:
    names = "ndcg_at_10", "ndcg_at_20", "recall_at_20"
    return [f"{worth[name]:.4f}" for name in names]


def over(end, reference) -> str:
    """The difference, and its standard error, paired by user."""
    if reference is None or end is reference:
        return ""
    differences = np.subtract(end["by_user"], reference["by_user"])
    error = differences.std(ddof=1) / len(differences) ** 0.5
    return f"{differences.mean():+.4f} ± {error:.4f}"


def tune(path, args) -> None:
    """Tries `GRID`, and prints the best of each method."""
    import keras

    made_up = LargeData.load(path)
    ranking, data = Ranking.of(made_up, args.num_evaluated), dataset(made_up)
    for name in args.methods:
        tried = []
        for settings in grid_of(name):
            keras.utils.clear_session()
            points = learn(name, settings, args.seconds, data, ranking)
            tried.append((points[-1]["ndcg_at_10"], settings))
            print(f"{name} {settings}: {short(points[-1])}", flush=True)
        best, settings = max(tried, key=lambda pair: pair[0])
        print(f"{name}, best: {best:.4f} {settings}", flush=True)


def make_data(args, path) -> None:
    """Writes the data set of the sizes that were asked for."""
    sizes = args.users, args.candidates, args.rows
    large_data(*sizes, seed=args.seed).save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int)
    parser.add_argument("--candidates", type=int)
    parser.add_argument("--rows", type=int, help="interactions")
    parser.add_argument("--seconds", type=float, help="CPU time of each method")
    parser.add_argument("--num-evaluated", type=int, default=5000)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--data", help="the made-up data: read if it is there")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--results", help="JSON: what is there is not rerun")
    parser.add_argument("--one", choices=METHODS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_one(args.data, args.one, args.seconds, args.num_evaluated)
        return
    sizes = TUNED_ON if args.tune else SIZES
    for option, value in sizes.items():
        if getattr(args, option) is None:
            setattr(args, option, value)
    args.methods = args.methods or (GRID if args.tune else METHODS)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(args.data or f"{folder}/data.npz")
        if not path.exists():
            make_data(args, path)
        if args.tune:
            tune(path, args)
            return
        made_up = LargeData.load(path)
        bounds = references(made_up, Ranking.of(made_up, args.num_evaluated))
        runs = run_methods(path, args)
    table(bounds, runs)
    print(json.dumps(summary(made_up, bounds, runs)))


def summary(made_up: LargeData, bounds: dict, runs: dict) -> dict:
    """All figures but those of each user."""
    worths = [point for run in runs.values() for point in run["points"]]
    for worth in [*bounds.values(), *worths]:
        worth.pop("by_user", None)
    return {
        "benchmark": "large_catalogue",
        "users": len(made_up.users),
        "candidates": len(made_up.popularity),
        "interactions": len(made_up.user_rows),
        "bounds": bounds,
        "runs": runs,
    }


if __name__ == "__main__":
    main()
