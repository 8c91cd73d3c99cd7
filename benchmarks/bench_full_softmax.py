"""Does a full softmax over a million candidates train in bounded memory?

One training step (loss, gradients of both towers' vectors, plain gradient
descent on the table) with all logits at once against the same step in chunks
with recomputation. Extra memory is what the compiled program allocates
beside its inputs and results; the table's gradient is part of it.

    python benchmarks/bench_full_softmax.py [--candidates 10000 1000000]
"""

import argparse
import json
import os
import platform
import statistics
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import keras
import numpy as np

from keras_dp_retrieval.losses import FullSoftmax, ScoredBatch

MEGABYTE = 2**20


def make_step(objective, rows):
    """A compiled `(users, table) -> table` after one step of descent."""

    def loss(users, table):
        batch = ScoredBatch(
            user_vectors=users,
            candidate_rows=rows,
            weights=jnp.ones(users.shape[0]),
            lookup=lambda rows: jnp.take(table, rows, axis=0),
            all_candidate_vectors=lambda: table,
            candidate_counts=jnp.ones(table.shape[0]),
        )
        return jnp.mean(objective(batch))

    def step(users, table):
        of_users, of_table = jax.grad(loss, argnums=(0, 1))(users, table)
        return users - 0.1 * of_users, table - 0.1 * of_table

    # The table is given away, as `fit` does it: no second copy of it.
    return jax.jit(step, donate_argnums=(0, 1))


def measure(objective, num_candidates, args):
    rng = np.random.default_rng(0)
    users = rng.normal(size=(args.batch, args.dim)).astype("float32")
    table = rng.normal(size=(num_candidates, args.dim)).astype("float32")
    rows = rng.integers(1, num_candidates, (args.batch, args.positives))
    state = jnp.asarray(users), jnp.asarray(table)
    step = make_step(objective, jnp.asarray(rows, "int32"))
    compiled = step.lower(*state).compile()
    seconds = []
    for _ in range(args.repeats + 1):
        start = time.perf_counter()
        state = jax.block_until_ready(compiled(*state))
        seconds.append(time.perf_counter() - start)
    seconds = sorted(seconds[1:])  # The first warms up.
    memory = compiled.memory_analysis()
    return {
        "step_ms": round(1e3 * statistics.median(seconds), 2),
        "step_ms_min": round(1e3 * seconds[0], 2),
        "step_ms_max": round(1e3 * seconds[-1], 2),
        "extra_mb": round(memory.temp_size_in_bytes / MEGABYTE, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--candidates",
        type=int,
        nargs="+",
        default=[10_000, 100_000, 1_000_000],
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--positives", type=int, default=32)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--chunk", type=int, default=16_384)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    results = []
    print("candidates  way      step ms (min-max)          extra MB   bound MB")
    for num_candidates in args.candidates:
        # The class's promise: the vectors and their gradient, and a few
        # chunks of logits.
        table = num_candidates * args.dim * 4
        chunk = args.batch * min(args.chunk, num_candidates) * 4
        bound = (2 * table + 6 * chunk) / MEGABYTE
        found = {"candidates": num_candidates, "bound_mb": round(bound, 1)}
        for way, chunk_size in [("whole", None), ("chunked", args.chunk)]:
            objective = FullSoftmax(chunk_size=chunk_size)
            found[way] = row = measure(objective, num_candidates, args)
            times = f"{row['step_ms']:9.1f} ({row['step_ms_min']:.1f}-"
            times += f"{row['step_ms_max']:.1f})"
            limit = f"{bound:10.1f}" if chunk_size else " " * 10
            print(
                f"{num_candidates:10d}  {way:8s} {times:26s}"
                f"{row['extra_mb']:9.1f} {limit}"
            )
        whole, chunked = found["whole"], found["chunked"]
        found["time_ratio"] = round(chunked["step_ms"] / whole["step_ms"], 3)
        found["memory_ratio"] = round(
            chunked["extra_mb"] / whole["extra_mb"], 3
        )
        results.append(found)
    device = jax.devices()[0]
    print(
        json.dumps(
            {
                "benchmark": "full_softmax",
                **vars(args),
                "results": results,
                "device": f"{device.platform} {device.device_kind}",
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "jax": jax.__version__,
                "keras": keras.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
