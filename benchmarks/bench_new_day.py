"""What does a new day of interactions cost a model of ten million?

    taskset -c 0,1 python benchmarks/bench_new_day.py --rows 10000000

Interactions of `bench_readers.py` are read from Parquet, a model is made for
them, and steps of it are timed: what every day would cost if each began from
scratch. Then come days of 100,000 interactions, as CSV files: one of 50 is of a
user whom nobody knew, one of 200 of a new candidate. Each is read, added
(`model.add_interactions`) and trained for one epoch, compilation included, as
the tables have other sizes every day. Prints one line of JSON; seconds are
`[median, least, greatest]` of the days, wall-clock and CPU time.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import statistics
import tempfile
import time
import warnings

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
import pyarrow as pa
from bench_readers import NAMES, make_table
from pyarrow import csv, parquet

import keras_dp_retrieval as kdr

COLUMNS = {
    "rating_column": "rating",
    "timestamp_column": "timestamp",
    "rating_range": (0.5, 5),
    "test_fraction": 0,
    "validation_fraction": 0,
}


def day_of(table, number, num_rows):
    """Interactions after those of `table`, some of them of new ids."""
    rng = np.random.default_rng(number)
    day = table.take(rng.integers(0, len(table), num_rows))
    columns = [day[name].to_numpy().copy() for name in NAMES]
    for column, every in zip(columns, (50, 200), strict=False):
        most = number * 10**9  # Far from all others.
        new = rng.choice(num_rows, num_rows // every, replace=False)
        column[new] = most + rng.integers(0, len(new), len(new))
    columns[-1] = 1_600_000_000 + number * 86_400 + np.arange(num_rows)
    return pa.table(columns, names=list(NAMES))


def timed(seconds, name, call):
    start = time.perf_counter(), time.process_time()
    result = call()
    wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    seconds.setdefault(name, []).append((wall, cpu))
    return result


def fit(model, batches, steps=None):
    model.fit(batches, verbose=0, steps_per_epoch=steps)
    keras.ops.convert_to_numpy(model.optimizer.iterations)  # Waits for it.


def run(args, folder):
    table = make_table(args.rows, strings=False, by_user=False)
    whole = folder / "whole.parquet"
    parquet.write_table(table, whole)
    scratch, days = {}, {}
    data = timed(
        scratch,
        "read",
        lambda: kdr.RetrievalDataset.from_parquet(
            whole, batch_size=args.batch_size, **COLUMNS
        ),
    )
    model = timed(
        scratch,
        "make",
        lambda: kdr.TwoTowerRetrieval.for_dataset(
            data, args.dim, objective="in_batch_softmax"
        ),
    )
    model.compile(keras.optimizers.Adagrad(0.1))
    fit(model, data.train, args.steps)  # Compiles.
    timed(scratch, "steps", lambda: fit(model, data.train, args.steps))
    before = model.num_users, model.num_candidates
    for number in range(1, args.days + 1):
        path = folder / f"{number}.csv"
        csv.write_csv(day_of(table, number, args.day), path)
        today = timed(
            days,
            "read",
            lambda path=path: kdr.RetrievalDataset.from_csv(
                path, batch_size=args.batch_size, **COLUMNS
            ),
        )
        added = timed(
            days, "add", lambda today=today: model.add_interactions(today)
        )
        timed(days, "fit", lambda added=added: fit(model, added.train))
    grown = model.num_users - before[0], model.num_candidates - before[1]
    return before, grown, scratch, days


def spread(values):
    """Median, least and greatest."""
    three = statistics.median(values), min(values), max(values)
    return [round(value, 2) for value in three]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--day", type=int, default=100_000)
    parser.add_argument("--days", type=int, default=5)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50, help="from scratch")
    parser.add_argument("--batch-size", type=int, default=4096)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        before, grown, scratch, days = run(args, pathlib.Path(temporary))
    days["all"] = [
        tuple(map(sum, zip(*parts, strict=True)))
        for parts in zip(*days.values(), strict=True)
    ]
    of_step, _ = scratch.pop("steps")[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {
                "rows": args.rows,
                "day": args.day,
                "tables": list(before),
                "grown by": list(grown),
                "dim": args.dim,
                "from scratch, s": {
                    name: round(wall, 2)
                    for name, ((wall, _),) in scratch.items()
                },
                "an epoch from scratch, s": round(
                    of_step / args.steps * -(-args.rows // args.batch_size)
                ),
                "a day, s": {
                    name: spread([wall for wall, _ in times])
                    for name, times in days.items()
                },
                "a day, CPU s": {
                    name: spread([cpu for _, cpu in times])
                    for name, times in days.items()
                },
                "peak MiB": round(peak),
                "machine": platform.machine(),
                "cores": len(os.sched_getaffinity(0)),
                "load": round(os.getloadavg()[0], 1),
                "python": platform.python_version(),
                "keras": keras.__version__,
                "kdr": kdr.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
