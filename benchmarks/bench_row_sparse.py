"""Does a step's time follow the batch or the table, and beside whom?

    taskset -c 0,1 python benchmarks/bench_row_sparse.py \
        --tfrs-python /path/to/venv/bin/python
    taskset -c 0,1 python benchmarks/bench_row_sparse.py --model
    taskset -c 0,1 python benchmarks/bench_row_sparse.py --model \
        --num-rows 100000000 --dim 4

Two tables, dim 64, batch 4096, Adagrad, mean squared error of the dot product,
through `model.fit`: row-sparse, dense, and TensorFlow Recommenders (in its own
process, since it needs tf_keras; left out where it is not installed). Each
round times a few steps of every contender in turn, so that a busy machine slows
all of them; the ratios are within a round. Times include what `fit` does in
Python.

With `--model`, `TwoTowerRetrieval` itself at 10,000, a million and ten million
rows for each objective. Each size has a process of its own, one after the
other in every round: at ten million rows two tables and their slots take 10
GB. What a `fit` costs whatever its length (at its end every weight is looked
at for NaN, a pass over the tables) is told apart from the steps, which are
timed from the first few on to the last; both are printed. Virtual devices on
one machine would prove nothing on speed: this runs on one device.

On CPU most of the row-sparse step at 1M rows is spent on random rows: gathers
of table and slot, scatters into both. By `jax.profiler`, summed over the
operations of a step (lowest 15 % of each, on a busy machine), they take 6.6 of
7.6 ms; at 10k rows, where they hit the cache, 1.1 of 1.6 ms. A part of it is
address translation: with GLIBC_TUNABLES=glibc.malloc.hugetlb=1, which makes
malloc ask Linux for large pages, the step at 1M rows took 0.5-0.7 of its time,
in separate runs on that machine.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np


def pairs(num_rows, steps, batch_size):
    rng = np.random.default_rng(0)
    x = rng.integers(0, num_rows, (steps * batch_size, 2)).astype("int32")
    return x, rng.normal(size=len(x)).astype("float32")


def ours(num_rows, by_row, arguments):
    """A function that trains `steps` steps and returns when they are done."""
    import jax
    import keras
    from keras import ops

    from keras_dp_retrieval._jax import row_sparse_step
    from keras_dp_retrieval.towers.embedding import RowEmbedding
    from keras_dp_retrieval.training import row_rules

    class Pairs(keras.Model):
        def __init__(self):
            super().__init__()
            self.users = RowEmbedding(num_rows, arguments.dim)
            self.candidates = RowEmbedding(num_rows, arguments.dim)

        def call(self, x):
            vectors = self.users(x[:, 0]) * self.candidates(x[:, 1])
            return ops.sum(vectors, axis=-1)

        def train_step(self, state, data):
            if not by_row:
                return super().train_step(state, data)
            tables = [self.users.embeddings, self.candidates.embeddings]
            rule = row_rules.row_rule(self.optimizer)
            return row_sparse_step.train_step(self, state, data, tables, rule)

    model = Pairs()
    model.compile(keras.optimizers.Adagrad(0.1), "mse")
    return fitting(
        model,
        num_rows,
        arguments,
        lambda: jax.block_until_ready(
            [v.value for v in model.trainable_variables]
        ),
    )


def fitting(model, num_rows, arguments, wait):
    x, y = pairs(num_rows, arguments.steps, arguments.batch_size)
    options = {
        "batch_size": arguments.batch_size,
        "shuffle": False,
        "verbose": 0,
    }

    def fit(steps):
        # Dense steps at 1M rows take long: fewer of them are enough.
        rows = steps * arguments.batch_size
        model.fit(x[:rows], y[:rows], **options)
        wait()

    return fit


def tfrs(num_rows, arguments):
    """The same for TensorFlow Recommenders; runs in the child process."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow as tf
    import tensorflow_recommenders as recommenders
    import tf_keras

    class Pairs(recommenders.Model):
        def __init__(self):
            super().__init__()
            self.users, self.candidates = (
                tf_keras.layers.Embedding(num_rows, arguments.dim)
                for _ in range(2)
            )
            self.task = recommenders.tasks.Ranking(
                loss=tf_keras.losses.MeanSquaredError()
            )

        def compute_loss(self, features, training=False):
            x, y = features
            vectors = self.users(x[:, 0]) * self.candidates(x[:, 1])
            return self.task(y, tf.reduce_sum(vectors, axis=-1))

    model = Pairs()
    model.compile(optimizer=tf_keras.optimizers.Adagrad(0.1))
    return fitting(model, num_rows, arguments, lambda: None)


class Child:
    """TensorFlow Recommenders in another Python, one fit for each request."""

    def __init__(self, python):
        self._process = subprocess.Popen(
            [python, __file__, "--child", *sys.argv[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def fit(self, num_rows, steps):
        """Seconds of one fit, as measured in the child."""
        self._process.stdin.write(f"{num_rows} {steps}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def serve(arguments):
    fits = {n: tfrs(n, arguments) for n in arguments.num_rows}
    for line in sys.stdin:
        num_rows, steps = map(int, line.split())
        print(timed(fits[num_rows], steps), flush=True)


def timed(fit, steps):
    start = time.perf_counter()
    fit(steps)
    return time.perf_counter() - start


def contenders(arguments, child):
    """`{(name, num_rows): (function of steps -> seconds, steps)}`."""
    calls = {}
    for n in arguments.num_rows:
        few = max(2, min(arguments.steps, 2_000_000 // n))
        by_row, dense = ours(n, True, arguments), ours(n, False, arguments)
        calls["row_sparse", n] = (
            lambda s, f=by_row: timed(f, s),
            arguments.steps,
        )
        calls["dense", n] = lambda s, f=dense: timed(f, s), few
        if child is not None:
            calls["tfrs", n] = lambda s, n=n: child.fit(n, s), arguments.steps
    return calls


def measured(calls, rounds):
    """Milliseconds a step of each contender in each round."""
    times = {key: [] for key in calls}
    for number in range(rounds + 1):
        for key, (call, steps) in calls.items():
            seconds = call(steps)
            if number:  # The first round compiles.
                times[key].append(1e3 * seconds / steps)
    return times


def ratio(times, over, under):
    ratios = [a / b for a, b in zip(times[over], times[under], strict=True)]
    return {
        "of": f"{over[0]} at {over[1]} rows",
        "to": f"{under[0]} at {under[1]} rows",
        "median": round(statistics.median(ratios), 2),
        "lowest": round(min(ratios), 2),
        "highest": round(max(ratios), 2),
    }


def ratios(times, sizes):
    least, most = min(sizes), max(sizes)
    wanted = [(("row_sparse", most), ("row_sparse", least))]
    for name in ("dense", "tfrs"):
        wanted += [((name, n), ("row_sparse", n)) for n in sizes]
    return [ratio(times, a, b) for a, b in wanted if a in times]


def model_times(arguments):
    """In a process of its own: prints `{"step_ms", "fit_s", "peak_gib"}`.

    A line for each line that comes in, which is one round.
    """
    import resource

    import jax
    import keras

    import keras_dp_retrieval as kdr

    (num_rows,) = arguments.num_rows
    model = kdr.TwoTowerRetrieval(
        num_rows, num_rows, arguments.dim, objective=arguments.objective
    )
    model.compile(keras.optimizers.Adagrad(0.1))
    few = max(2, arguments.steps // 10)
    steps = few + arguments.steps
    x, ratings = pairs(num_rows, steps, arguments.batch_size)
    users, candidates = np.maximum(x.T, 1)  # Row 0 is for the unknown.
    y = {"movie_id": candidates, "rating": ratings}
    times: dict = {}

    def note(batch, logs):
        if batch in (few - 1, steps - 1):
            float(logs["loss"])  # Waits for the step.
            times[batch] = time.perf_counter()

    def fit(_):
        model.fit(
            users,
            y,
            batch_size=arguments.batch_size,
            shuffle=False,
            verbose=0,
            callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=note)],
        )
        jax.block_until_ready([v.value for v in model.trainable_variables])

    fit(steps)  # Compiles.
    for _ in sys.stdin:
        seconds = timed(fit, steps)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        step = (times[steps - 1] - times[few - 1]) / arguments.steps
        found = {
            "step_ms": 1e3 * step,
            "fit_s": seconds - steps * step,
            "peak_gib": peak,
        }
        print(json.dumps(found), flush=True)


class Sized:
    """A model of one size in a process of its own."""

    def __init__(self, num_rows, objective, arguments):
        options = [
            *("--model", "--child", "--objective", objective),
            *("--num-rows", str(num_rows), "--dim", str(arguments.dim)),
            *("--batch-size", str(arguments.batch_size)),
            *("--steps", str(arguments.steps)),
        ]
        self._process = subprocess.Popen(
            [sys.executable, __file__, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def round(self):
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def model_main(arguments):
    """Times `TwoTowerRetrieval` at each size, in turn, and prints it."""
    sizes = arguments.num_rows or [10_000, 1_000_000, 10_000_000]
    for objective in arguments.objectives:
        models = {n: Sized(n, objective, arguments) for n in sizes}
        rounds: dict = {n: [] for n in sizes}
        for _ in range(arguments.rounds):
            for n, model in models.items():
                rounds[n].append(model.round())
                print(n, rounds[n][-1], file=sys.stderr, flush=True)
        for model in models.values():
            model.close()
        times = {
            (objective, n): [one["step_ms"] for one in rounds[n]] for n in sizes
        }
        for n in sizes:
            steps = times[objective, n]
            fit = statistics.median(one["fit_s"] for one in rounds[n])
            print(
                f"{objective:>16} {n:>9} rows {statistics.median(steps):9.2f} "
                f"ms a step ({min(steps):.2f}-{max(steps):.2f}), {fit:.2f} s "
                f"a fit, peak {rounds[n][-1]['peak_gib']:.1f} GiB",
                flush=True,
            )
        found = [
            ratio(times, (objective, more), (objective, less))
            for less, more in itertools.pairwise(sizes)
        ]
        print(
            json.dumps(
                {"objective": objective, "ratios": found, **about(arguments)}
            ),
            flush=True,
        )


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-rows", type=int, nargs="+")
    parser.add_argument(
        "--model", action="store_true", help="TwoTowerRetrieval at each size"
    )
    parser.add_argument(
        "--objectives", nargs="+", default=["rating", "in_batch_softmax"]
    )
    parser.add_argument("--objective", help=argparse.SUPPRESS)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tfrs-python", help="a Python that has TFRS")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    arguments = parse()
    if arguments.model:
        run = model_times if arguments.child else model_main
        return run(arguments)
    arguments.num_rows = arguments.num_rows or [10_000, 100_000, 1_000_000]
    if arguments.child:
        return serve(arguments)
    child = Child(arguments.tfrs_python) if arguments.tfrs_python else None
    if child is None:
        print("TFRS is left out: no --tfrs-python was given.")
    times = measured(contenders(arguments, child), arguments.rounds)
    if child is not None:
        child.close()
    for (name, num_rows), values in times.items():
        print(
            f"{name:>12} {num_rows:>9} rows {statistics.median(values):9.2f} "
            f"ms a step ({min(values):.2f}-{max(values):.2f})"
        )
    found = ratios(times, arguments.num_rows)
    for row in found:
        print(
            f"{row['of']:>26} / {row['to']:<26} {row['median']:7.2f} "
            f"({row['lowest']}-{row['highest']})"
        )
    print(json.dumps({"ratios": found, **about(arguments)}))


def about(arguments):
    import jax
    import keras

    return {
        "dim": arguments.dim,
        "batch_size": arguments.batch_size,
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "keras": keras.__version__,
    }


if __name__ == "__main__":
    main()
