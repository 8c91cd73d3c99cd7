"""How long does an exact evaluation take, and how much memory?

Two questions about one function:

- MovieLens 100K's shape (943 users, 1,682 candidates, 64 dimensions): seconds
  an evaluation, against one epoch of the tutorial's recipe, and against scoring
  everything at once and sorting it in NumPy.
- A large catalogue (`--users`, `--candidates`, 16 dimensions): seconds, the
  temporary memory the compiled program asks for, and how far the process
  grew, against the size of the whole score matrix. `--large` runs 100,000
  users x 1,000,000 candidates: 3.2 TFLOP of scores, and the ranking of them.

Usage: python benchmarks/bench_evaluation.py [--repeats 5] [--users 10000]
       [--candidates 1000000] [--large]
"""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np

from keras_dp_retrieval import TwoTowerRetrieval, metrics
from keras_dp_retrieval._jax import ranking
from keras_dp_retrieval.data.interactions import Interactions
from keras_dp_retrieval.data.ratings import Ratings
from keras_dp_retrieval.data.vocabulary import Vocabulary
from keras_dp_retrieval.metrics import ranker


class Data:
    """Random interactions: what `evaluate` needs of a data set."""

    def __init__(self, num_users, num_candidates, num_train, num_test, seed=0):
        rng = np.random.default_rng(seed)
        self.num_users, self.num_candidates = num_users + 1, num_candidates + 1

        def ratings(num):
            # The square makes some candidates much more popular than others.
            index = rng.random(num) ** 2 * num_candidates
            users = rng.integers(1, self.num_users, num)
            return Ratings(users, 1 + index.astype("int32"))

        self.train, self.test = ratings(num_train), ratings(num_test)
        self.seen = Interactions.from_ratings(self.train, self.num_users)
        self.candidate_vocabulary = Vocabulary(np.arange(1, num_candidates + 1))

    def ratings(self, split):
        return {"train": self.train, "test": self.test}[split]

    def seen_before(self, split):
        return self.seen

    def candidate_counts(self, split):
        rows = self.ratings(split).candidate_rows
        return np.bincount(rows, minlength=self.num_candidates)


class Tables:
    """Random vectors: what `evaluate` needs of a model."""

    def __init__(self, num_users, num_candidates, dim, seed=1):
        rng = np.random.default_rng(seed)
        self.users, self.candidates = (
            keras.ops.convert_to_tensor(
                rng.normal(size=(rows, dim)).astype("float32")
            )
            for rows in (num_users, num_candidates)
        )

    def user_vectors(self, user_rows):
        return keras.ops.take(self.users, user_rows, axis=0)

    def candidate_vectors(self):
        return self.candidates


def full_sort(model, data, k):
    """Recall@k the plain way: the whole score matrix, sorted, in NumPy."""
    users = np.unique(data.test.user_rows)
    scores = np.asarray(model.users)[users] @ np.asarray(model.candidates).T
    scores[:, 0] = -np.inf
    for row, seen in zip(scores, data.seen.of(users), strict=True):
        row[seen] = -np.inf
    lists = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    held_out = Interactions.from_ratings(data.test, data.num_users).of(users)
    recalls = [
        np.isin(ranked, wanted).sum() / len(np.unique(wanted))
        for ranked, wanted in zip(lists, held_out, strict=True)
    ]
    return float(np.mean(recalls))


def seconds_of(function, repeats):
    """Median, minimum and maximum of `repeats` runs after one that warms up."""
    result, times = function(), []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()  # Floats: nothing is left to wait for.
        times.append(time.perf_counter() - start)
    return result, [statistics.median(times), min(times), max(times)]


def tutorial_epoch(data):
    """A function that trains one epoch: 80 fused steps of 900 examples."""
    model = TwoTowerRetrieval(
        data.num_users, data.num_candidates, 64, objective="rating"
    )
    model.compile(keras.optimizers.Adagrad(0.2), steps_per_execution=80)
    users, candidates = data.train.user_rows, data.train.candidate_rows
    labels = {"movie_id": candidates, "rating": np.ones(len(users), "float32")}
    return lambda: model.fit(users, labels, batch_size=900, verbose=0)


def movielens_shape(repeats):
    data = Data(943, 1682, 72_000, 20_000)
    model = Tables(data.num_users, data.num_candidates, 64)
    task = metrics.RankingTask.prepare(data, "test", (10, 20))
    result, whole = seconds_of(lambda: metrics.evaluate(model, data), repeats)
    _, prepared = seconds_of(lambda: task.run(model), repeats)
    recall, plain = seconds_of(lambda: full_sort(model, data, 20), repeats)
    _, epoch = seconds_of(tutorial_epoch(data), repeats)
    assert abs(recall - result["recall_at_20"]) < 1e-9
    return {
        "evaluate_seconds": whole,
        "callback_seconds": prepared,
        "epoch_seconds": epoch,
        "numpy_full_sort_seconds": plain,
        "speedup_over_numpy": plain[0] / whole[0],
    }


def large_catalogue(num_users, num_candidates):
    data = Data(num_users, num_candidates, num_users * 10, num_users * 2)
    model = Tables(data.num_users, data.num_candidates, 16)
    task = metrics.RankingTask.prepare(data, "test", (10, 20))
    before = peak_bytes()
    start = time.perf_counter()
    task.run(model)
    seconds = time.perf_counter() - start
    return {
        "users": len(task.user_rows),
        "candidates": num_candidates,
        "seconds_with_compilation": seconds,
        "compiled_temporary_bytes": temporary_bytes(task),
        "grown_bytes": peak_bytes() - before,
        "chunk_bytes": 4 * task.user_chunk_size * task.candidate_chunk_size,
        "score_matrix_bytes": 4 * len(task.user_rows) * num_candidates,
    }


def temporary_bytes(task):
    """What the compiled ranking of the largest chunk asks for."""
    _, num_rows, width = max(task.chunks(1), key=lambda c: c[1] * c[2])
    num_candidates = len(task.real)
    program = ranking.compiled_ranker(
        ranker.best_rows,
        ranking.local_mesh(),
        task.ks[-1],
        task.candidate_chunk_size,
    )
    compiled = program.lower(
        jax.ShapeDtypeStruct((num_rows, 16), "float32"),
        jax.ShapeDtypeStruct((num_candidates, 16), "float32"),
        jax.ShapeDtypeStruct((num_rows, width), "int32"),
        jax.ShapeDtypeStruct((num_candidates,), "bool"),
    ).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def peak_bytes():
    """The most memory the process has held so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--large", action="store_true")
    arguments = parser.parse_args()
    num_users = 100_000 if arguments.large else arguments.users
    small = movielens_shape(arguments.repeats)
    large = large_catalogue(num_users, arguments.candidates)
    machine = {
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "devices": [str(device) for device in jax.devices()],
        "python": platform.python_version(),
        "keras": keras.__version__,
        "jax": jax.__version__,
    }
    print(f"MovieLens 100K's shape, seconds (median of {arguments.repeats}):")
    for name in ("evaluate", "callback", "epoch", "numpy_full_sort"):
        median, least, most = small[f"{name}_seconds"]
        print(f"  {name:<16} {median:8.4f}  ({least:.4f} to {most:.4f})")
    print(
        f"{large['users']} users x {large['candidates']} candidates: "
        f"{large['seconds_with_compilation']:.1f} s with compilation"
    )
    for name in ("compiled_temporary", "grown", "chunk", "score_matrix"):
        print(f"  {name:<20} {large[f'{name}_bytes'] / 2**20:12,.0f} MiB")
    print(json.dumps({"small": small, "large": large, "machine": machine}))


if __name__ == "__main__":
    sys.exit(main())
