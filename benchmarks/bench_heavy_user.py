"""What does one user with a very long history cost everybody?

Steps of a model with an `IdHistoryTower`, in-batch softmax and Adagrad, on
batches of different users, with and without the heavy user among them; and the
same users encoded. Milliseconds are of steps of one and of the other in turn,
the ratio is that of neighbours; temporary bytes are what the compiled programs
allocate beside their inputs and results, `padded` of those that pad all
histories to the longest, which are compiled and not run.

    taskset -c 0,1 python benchmarks/bench_heavy_user.py [--longest 30000]

Prints a line of JSON.
"""

import argparse
import json
import os
import platform
import statistics
import time
from unittest import mock

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np

import keras_dp_retrieval as kdr
from keras_dp_retrieval.data.interactions import Interactions
from keras_dp_retrieval.model import encoding
from keras_dp_retrieval.towers import history_sums

HEAVY_USER = 1

# All users alike; the heavy user is in no batch; and in one.
NAMES = ("users_alike", "elsewhere", "in_batch")


def model_of(args, longest):
    """A compiled model, in which `HEAVY_USER` has so long a history."""
    sizes = np.full(args.users - 1, args.usual)
    sizes[HEAVY_USER - 1] = longest
    indptr = np.concatenate([[0, 0], np.cumsum(sizes)])
    rng = np.random.default_rng(0)
    rows = rng.integers(1, args.candidates, indptr[-1])
    tower = kdr.IdHistoryTower(args.users, args.candidates, args.dim, seed=0)
    model = kdr.TwoTowerRetrieval(
        args.users,
        args.candidates,
        args.dim,
        user_tower=tower,
        histories=kdr.Histories.from_interactions(Interactions(indptr, rows)),
        objective="in_batch_softmax",
        embedding_updates=args.updates,
    )
    model.compile(keras.optimizers.Adagrad(0.1))
    model.build()
    model.optimizer.build(model.trainable_variables)
    return model


def groups_of(model):
    return (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )


def batch_of(args, users):
    rng = np.random.default_rng(1)
    items = rng.integers(1, args.candidates, args.batch).astype("int32")
    weights = np.ones(args.batch, "float32")
    return users, {"movie_id": items, "rating": weights}, weights


def compiled_step(model, batch):
    step = jax.jit(model.train_step, donate_argnums=0)
    return step.lower(shapes_of(state_of(model)), shapes_of(batch)).compile()


def compiled_encoding(model, num_users):
    variables = [*model.trainable_variables, *model.non_trainable_variables]

    def encode(values, rows):
        mapping = list(zip(variables, values, strict=True))
        with keras.StatelessScope(mapping):
            return encoding.user_vectors(model, rows)

    values = shapes_of([variable.value for variable in variables])
    rows = jax.ShapeDtypeStruct((num_users,), "int32")
    return jax.jit(encode).lower(values, rows).compile()


def state_of(model):
    return tuple(
        [variable.value for variable in group] for group in groups_of(model)
    )


def shapes_of(tree):
    return jax.tree.map(
        lambda one: jax.ShapeDtypeStruct(one.shape, one.dtype), tree
    )


def megabytes(program) -> float:
    return round(program.memory_analysis().temp_size_in_bytes / 2**20, 1)


def steps_in_turn(args, programs, states, batches):
    """Seconds of each program's steps, `(repeats, programs)`."""
    seconds = np.zeros((args.repeats + 1, len(programs)))
    for repeat in range(args.repeats + 1):
        for number, program in enumerate(programs):
            began = time.perf_counter()
            _, states[number] = jax.block_until_ready(
                program(states[number], batches[number])
            )
            seconds[repeat, number] = time.perf_counter() - began
    return seconds[1:]  # The first warms up.


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--candidates", type=int, default=500_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--usual", type=int, default=50)
    parser.add_argument("--longest", type=int, default=30_000)
    parser.add_argument("--updates", default="row_sparse")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    usual = np.arange(2, 2 + args.batch, dtype="int32")
    heavy = np.where(usual == 2, HEAVY_USER, usual).astype("int32")
    models = [model_of(args, args.usual), model_of(args, args.longest)]
    models.append(models[1])
    batches = [batch_of(args, users) for users in (usual, usual, heavy)]
    programs = [
        compiled_step(model, batch)
        for model, batch in zip(models, batches, strict=True)
    ]
    found = {
        name: {"step_mb": megabytes(step)}
        for name, step in zip(NAMES, programs, strict=True)
    }
    encoded = compiled_encoding(models[1], 1024)
    found["in_batch"]["encode_1024_users_mb"] = megabytes(encoded)
    with mock.patch.multiple(
        history_sums, MOST_GATHERED=np.inf, MOST_COUNTS=np.inf
    ):
        padded = compiled_step(models[1], batches[1])
        found["padded"] = {"step_mb": megabytes(padded)}
        encoded = compiled_encoding(models[1], 1024)
        found["padded"]["encode_1024_users_mb"] = megabytes(encoded)
    states = [jax.tree.map(jax.numpy.copy, state_of(m)) for m in models]
    seconds = steps_in_turn(args, programs, states, batches)
    for number, name in enumerate(NAMES):
        ratios = seconds[:, number] / seconds[:, 0]
        found[name]["step_ms"] = quartiles(1e3 * seconds[:, number])
        found[name]["ratio_to_users_alike"] = quartiles(ratios)
    print(
        json.dumps(
            {
                "benchmark": "heavy_user",
                **vars(args),
                "found": found,
                "machine": platform.processor() or platform.machine(),
                "cpus": len(os.sched_getaffinity(0)),
                "jax": jax.__version__,
                "keras": keras.__version__,
            }
        )
    )


def quartiles(values) -> list[float]:
    """`[median, first quartile, third quartile]`."""
    low, median, high = statistics.quantiles(values, n=4)
    return [round(float(one), 2) for one in (median, low, high)]


if __name__ == "__main__":
    main()
