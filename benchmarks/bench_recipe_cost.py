"""What does `fit_recipe` cost, trials and compilation included?

P1 of `bench_recipe.py`: MovieLens 100K, a random fifth held out, the first
split. Every training is a program of its own process, as it is for whoever
fits one model, so that nothing is compiled already. With `--against FOLDER`,
a checkout of another version, the two take turns.

Prints a line of JSON for each version: `[least, median, most]` of wall-clock
and CPU seconds, the number of trainings (trials and the model), and of the
programs that JAX compiled, of which `programs_of_steps` train.

Usage: taskset -c 0,1 python benchmarks/bench_recipe_cost.py --data-dir data
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
import warnings

from movielens_folder import add_data_dir, ml_100k

HERE = pathlib.Path(__file__).resolve().parent.parent
CHILD = "KDR_BENCHMARK_COSTS"


def costs(data_dir):
    """What one training costs, as a dict."""
    import jax
    import keras

    import keras_dp_retrieval as kdr

    warnings.simplefilter("ignore")
    data = kdr.MovieLensRetrievalDataset(
        "100k",
        source="files",
        data_dir=ml_100k(data_dir),
        split="random",
        seed=42,
        validation_fraction=0.125,
    )
    programs, fits = [], []

    def listen(event, seconds, fun_name="", **_):
        if event.endswith("backend_compile_duration"):
            programs.append(str(fun_name))

    jax.monitoring.register_event_duration_secs_listener(listen)
    fit = kdr.TwoTowerRetrieval.fit

    def counted(*args, **kwargs):
        fits.append(kwargs.get("epochs"))
        return fit(*args, **kwargs)

    kdr.TwoTowerRetrieval.fit = counted
    start = time.perf_counter(), time.process_time()
    model = kdr.fit_recipe(data)
    keras.ops.convert_to_numpy(model.optimizer.iterations)  # Waits for it.
    return {
        "seconds": time.perf_counter() - start[0],
        "cpu_seconds": time.process_time() - start[1],
        "trainings": len(fits),
        "programs": len(programs),
        "programs_of_steps": sum("run" in name for name in programs),
    }


def run(checkout, data_dir):
    """The costs in a process of its own."""
    environment = {
        "KERAS_BACKEND": "jax",
        **os.environ,
        "PYTHONPATH": str(checkout),
        CHILD: "1",
    }
    command = [sys.executable, __file__, "--data-dir", str(data_dir)]
    output = subprocess.run(
        command,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ).stdout
    return json.loads(output.splitlines()[-1])


def summary(runs):
    """`[least, median, most]` of the seconds; the counts of the first run."""
    result = dict(runs[0])
    for name in ("seconds", "cpu_seconds"):
        values = [one[name] for one in runs]
        spread = min(values), statistics.median(values), max(values)
        result[name] = [round(value, 1) for value in spread]
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_dir(parser)
    parser.add_argument("--against", type=pathlib.Path)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if CHILD in os.environ:
        print(json.dumps(costs(args.data_dir)))
        return
    versions = {"this": HERE}
    if args.against is not None:
        versions["against"] = args.against.resolve()
    runs = {name: [] for name in versions}
    for _ in range(args.repeats):
        for name, checkout in versions.items():
            runs[name].append(run(checkout, args.data_dir))
    for name, those in runs.items():
        print(
            json.dumps(
                {
                    "benchmark": "recipe cost",
                    "version": name,
                    **summary(those),
                    "machine": f"{platform.machine()}, {os.cpu_count()} cores, "
                    f"{len(os.sched_getaffinity(0))} used",
                }
            )
        )


if __name__ == "__main__":
    main()
