"""What does `fit_recipe` cost beside iALS and EASE, for what quality?

Seconds, memory and NDCG@10 (test part) of data sets of several shapes. Every
method gets a process of its own, and what a user would do: `fit_recipe` with
its trials and its compilation; iALS and EASE with the grid of `peers.py` tried
on the validation part, and then one training on train and validation parts,
whose seconds are also given by themselves. For MovieLens 100K (`p1`, `p2`),
also ALS of `implicit`; `--methods all` has all peers.

Seconds and CPU seconds count from after imports and reading the data, as does
memory: the peak minus what is held then. All methods have the same cores; say
with `taskset` which.

Usage:
    taskset -c 0,1 python benchmarks/bench_cost_table.py --data-dir data \\
        --csv npm.csv debian.csv

`--data dense p1` takes some of the data sets alone, `--methods` some methods.
`dependencies.py` writes the two files.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
import warnings

from movielens_folder import add_data_dir

CHILD = "KDR_BENCHMARK_COST_TABLE"
OURS = "fit_recipe"
ALS = "ALS (implicit)"
METHODS = (OURS, "iALS", "EASE", ALS)
SEED = 42


def load(name, data_dir):
    """The data set of a name: `p1`, `p2`, one of `SHAPES`, or a CSV file."""
    import bench_recipe

    import keras_dp_retrieval as kdr

    if name in bench_recipe.SPLITS:
        return bench_recipe.load(name, SEED, data_dir)
    if name in bench_recipe.SHAPES:
        *sizes, options = bench_recipe.SHAPES[name]
        return kdr.RetrievalDataset.from_synthetic(
            *sizes, **options, validation_fraction=0.125
        )
    return kdr.RetrievalDataset.from_csv(name, validation_fraction=0.125)


def fitted(method, data, name):
    """`(what bench_recipe.measure scores, seconds of its last training)`.

    After all that a user pays for; None for ours, whose trials and training
    share their beginning.
    """
    import bench_recipe
    from peers import PEERS

    import keras_dp_retrieval as kdr

    if method == OURS:
        return kdr.fit_recipe(data, seed=SEED), None
    # What is best on P2 is at an edge of the large grids already.
    small = name != "p2" and bool(PEERS[method].small_grid)
    settings, *others = PEERS[method].settings(small)
    if others:
        tried = bench_recipe.trials(method, {SEED: data}, small=small)
        settings = bench_recipe.best_of([*tried])
    whole = bench_recipe.part_of(data, "test")
    start = time.perf_counter()
    scores = PEERS[method].fit(whole, SEED, **settings)
    return scores, time.perf_counter() - start


def memory():
    """`(now, at most so far)`, resident bytes of this process."""
    fields = {}
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(("VmRSS", "VmHWM")):
            name, kilobytes, _ = line.split()
            fields[name] = int(kilobytes) * 1024
    return fields["VmRSS:"], fields["VmHWM:"]


def cost(method, name, data_dir):
    """Seconds, memory and quality of one method on one data set: a dict."""
    import bench_recipe
    import keras
    import numpy as np
    from peers import Unavailable

    warnings.simplefilter("ignore")
    data = load(name, data_dir)
    len(data.ratings("train"))
    np.linalg.inv(np.eye(8))  # Wakes NumPy's threads.
    held, _ = memory()
    start = time.perf_counter(), time.process_time()
    try:
        found, seconds_of_training = fitted(method, data, name)
    except Unavailable as error:
        return {"left_out": str(error)}
    if method == OURS:  # Waits for it.
        keras.ops.convert_to_numpy(found.optimizer.iterations)
    result = {
        "seconds": time.perf_counter() - start[0],
        "cpu_seconds": time.process_time() - start[1],
        "seconds_of_training": seconds_of_training,
        "megabytes": (memory()[1] - held) / 1e6,
    }
    whole = bench_recipe.part_of(data, "test")
    scored = bench_recipe.measure(lambda: found, whole, "test")
    result["ndcg_at_10"] = scored["ndcg_at_10"]
    if method == OURS:
        result["temperature"] = found.objective.temperature
        result["popularity_weight"] = found.popularity_weight
    return result


def run(method, name, data_dir):
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--data", name, "--methods", method]
    if data_dir is not None:
        command += ["--data-dir", str(data_dir)]
    environment = {"KERAS_BACKEND": "jax", **os.environ, CHILD: "1"}
    done = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def row(name, method, found):
    """A line of the Markdown table."""
    if "left_out" in found:
        return f"| {name} | {method} | left out: {found['left_out']} | | | | |"
    training = found["seconds_of_training"]
    return (
        f"| {name} | {method} | {found['seconds']:.1f} | "
        f"{'' if training is None else f'{training:.2f}'} | "
        f"{found['cpu_seconds']:.1f} | {found['megabytes']:.0f} | "
        f"{found['ndcg_at_10']:.4f} |"
    )


def versions():
    """Of what was measured."""
    names = ("keras-dp-retrieval", "keras", "jax", "numpy", "implicit")
    return {
        name: importlib.metadata.version(name)
        for name in names
        if any(importlib.metadata.distributions(name=name))
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_dir(parser, required=False)
    parser.add_argument("--csv", nargs="+", default=[], metavar="FILE")
    parser.add_argument("--data", nargs="+", metavar="NAME")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    args = parser.parse_args()
    if CHILD in os.environ:
        found = cost(args.methods[0], args.data[0], args.data_dir)
        print(json.dumps(found))
        return
    methods, names = args.methods, args.data
    if methods == ["all"]:
        from peers import PEERS

        methods = [OURS, *PEERS]
    if names is None:
        import bench_recipe

        names = ["p1", "p2"] * bool(args.data_dir) + [*bench_recipe.SHAPES]
        names += args.csv
    load = os.getloadavg()[0]
    print("| data | method | s | of it, training | CPU s | MB | NDCG@10 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    results = []
    for name in names:
        for method in methods:
            if method == ALS and name not in ("p1", "p2"):
                continue
            found = run(method, name, args.data_dir)
            results.append({"data": name, "method": method, **found})
            print(row(pathlib.Path(name).stem, method, found), flush=True)
    print(
        json.dumps(
            {
                "benchmark": "cost table",
                "results": results,
                "versions": versions(),
                "load_average_before": load,
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, "
                f"{len(os.sched_getaffinity(0))} used",
            }
        )
    )


if __name__ == "__main__":
    main()
