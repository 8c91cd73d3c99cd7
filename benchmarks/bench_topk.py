"""What does exact top-k cost beside scoring alone, and beside FAISS?

    taskset -c 0 python benchmarks/bench_topk.py
    taskset -c 0 python benchmarks/bench_topk.py --num-candidates 10000000 \
        --queries 64 1 --ks 10 --rounds 3 --only-times

Each round times every contender once, so that a busy machine slows all of them;
the ratios are within a round. The yardstick is a jitted matmul and maximum, the
least that any exact search must do, both ways round: XLA on a CPU is several
times faster one way than the other. FAISS is `IndexFlatIP` from faiss-cpu, left
out where it is not installed. Then the recall of narrow vectors: the share of
the exact best k that a `CandidateIndex` of that type returns, with the index's
memory. The vectors are independent normal numbers, which is hard for rounding:
real ones have clearer winners. `recommend` is a model's for as many users as
`--users`, each of whom has seen 100 items that are left out, beside the search
of its vectors alone.
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

import keras_dp_retrieval as kdr
from keras_dp_retrieval.index import CandidateIndex, exact

# With more, only the faster matmul and maximum is timed: the others take
# seconds a call.
MANY_SCORES = 2**28


def contenders(queries, candidates, k, faiss_index):
    """Functions without arguments that return when the work is done."""
    on_device = jnp.asarray(queries), jnp.asarray(candidates)
    queries_first = jax.jit(lambda q, c: (q @ c.T).max(axis=1))
    candidates_first = jax.jit(lambda q, c: (c @ q.T).max(axis=0))
    whole = jax.jit(lambda q, c: jax.lax.top_k(q @ c.T, k))

    def waiting(function):
        return lambda: jax.block_until_ready(function(*on_device))

    calls = {
        "ours": waiting(lambda q, c: exact.top_k(q, c, k)),
        "matmul_max_other_way_round": waiting(candidates_first),
    }
    if len(queries) * len(candidates) > MANY_SCORES:
        return calls
    calls["matmul_max"] = waiting(queries_first)
    calls["matmul_top_k"] = waiting(whole)
    if faiss_index is not None:
        calls["faiss_flat"] = lambda: faiss_index.search(queries, k)
    return calls


def timed(calls, rounds, clock):
    """Seconds of each call in each round, after one that is not counted."""
    seconds = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if number:
                seconds[name].append(clock() - start)
    return seconds


def summary(seconds):
    """Median milliseconds, and ours as a ratio to each: median, low, high."""
    rows = {}
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(seconds["ours"], values, strict=True)]
        rows[name] = {
            "milliseconds": round(1e3 * statistics.median(values), 2),
            "ours_over_it": round(statistics.median(ratios), 3),
            "lowest": round(min(ratios), 3),
            "highest": round(max(ratios), 3),
        }
    return rows


def recommending(num_candidates, dim, num_users, k, rounds, clock):
    """A whole `recommend` beside its search, as `summary` has it."""
    num_known = max(num_candidates // 100, num_users)
    rng = np.random.default_rng(0)
    data = kdr.RetrievalDataset.from_interactions(
        np.arange(num_candidates) % num_known + 1,
        rng.permutation(num_candidates) + 1,
        test_fraction=0,
        validation_fraction=0,
    )
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, dim, objective="full_softmax"
    )
    model.build()
    users = np.arange(1, num_users + 1, dtype="int32")
    vectors = model.user_vectors(users), model.candidate_vectors()
    calls = {
        "ours": lambda: model.recommend(users, k),
        "search": lambda: jax.block_until_ready(exact.top_k(*vectors, k)),
    }
    rows = summary(timed(calls, rounds, clock))
    return {"recommend": rows["ours"], "search": rows["search"]}


def recall_against_exact(queries, candidates, candidate_dtype, k):
    """Mean share of the exact best k that the index returns, and its bytes."""
    ids = np.arange(len(candidates))
    index = CandidateIndex.from_vectors(
        ids, candidates, candidate_dtype=candidate_dtype
    )
    _, best_rows = exact.top_k(queries, candidates, k)
    found, _ = index.search(queries, k)
    shares = [
        len(np.intersect1d(one, other)) / k
        for one, other in zip(found, np.asarray(best_rows), strict=True)
    ]
    width = {"bfloat16": 2, "int8": 1}[candidate_dtype]
    scales = 4 * len(ids) * (candidate_dtype == "int8")
    size = width * candidates.size + scales
    return {
        "recall": round(float(np.mean(shares)), 4),
        "lowest_query": round(min(shares), 4),
        "memory_over_float32": round(size / candidates.nbytes, 3),
    }


def faiss_flat(candidates):
    try:
        import faiss
    except ImportError:
        return None
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    index = faiss.IndexFlatIP(candidates.shape[1])
    index.add(candidates)
    return index


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-candidates", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--queries", type=int, nargs="+", default=[1024, 64, 1])
    parser.add_argument("--users", type=int, default=1024)
    parser.add_argument("--only-times", action="store_true")
    parser.add_argument("--ks", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: seconds of this process, for one core of a busy machine",
    )
    return parser.parse_args()


def main():
    args = parse()
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[args.clock]
    rng = np.random.default_rng(0)
    shape = (args.num_candidates, args.dim)
    candidates = rng.standard_normal(shape, dtype="float32")
    index = faiss_flat(candidates)
    result = {
        "question": "exact top-k beside matmul and maximum, and FAISS",
        "machine": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "device": str(jax.devices()[0]),
        "versions": {"jax": jax.__version__, "keras": keras.__version__},
        **vars(args),
        "times": {},
        "recall": {},
    }
    for num_queries in args.queries:
        queries = rng.standard_normal((num_queries, args.dim), dtype="float32")
        for k in args.ks:
            calls = contenders(queries, candidates, k, index)
            rows = summary(timed(calls, args.rounds, clock))
            result["times"][f"{num_queries} queries, k={k}"] = rows
    if args.only_times:
        return show(result)
    result["times"][f"recommend to {args.users} users, k=10"] = recommending(
        args.num_candidates, args.dim, args.users, 10, args.rounds, clock
    )
    queries = rng.standard_normal((64, args.dim), dtype="float32")
    for candidate_dtype in ("bfloat16", "int8"):
        for k in args.ks:
            result["recall"][f"{candidate_dtype}, k={k}"] = (
                recall_against_exact(queries, candidates, candidate_dtype, k)
            )
    show(result)


def show(result):
    print("| case | contender | ms | ours / it | lowest - highest |")
    print("| --- | --- | --- | --- | --- |")
    for case, rows in result["times"].items():
        for name, row in rows.items():
            print(
                f"| {case} | {name} | {row['milliseconds']} | "
                f"{row['ours_over_it']} | {row['lowest']} - {row['highest']} |"
            )
    print("\n| vectors | recall | worst query | memory / float32 |")
    print("| --- | --- | --- | --- |")
    for case, row in result["recall"].items():
        print(f"| {case} | " + " | ".join(map(str, row.values())) + " |")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
