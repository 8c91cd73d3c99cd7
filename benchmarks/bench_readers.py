"""What does a split data set cost beside reading the same file?

    taskset -c 0,1 python benchmarks/bench_readers.py --rows 1000000 10000000

Synthetic interactions with MovieLens' columns are written once, as CSV
and as Parquet, with ids that are whole numbers and with ids that are strings.
Arrow, pandas and polars read the file into a table. Ours reads it, encodes the
ids, divides the rows into train, validation and test, and reports leakage.
Each reading has a process of its own, for its peak memory; time counts from
after the imports. Every round runs all of them once; ratios are over Arrow's
of the same round. With `--by-user` rows stand by user, as in GroupLens' files.
"""

import argparse
import importlib
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

NAMES = ("userId", "movieId", "rating", "timestamp")
SPLITS = ("random", "by_time", "leave_last_out")
READERS = ("arrow", "pandas", "polars", *SPLITS)


def make_table(num_rows, strings, by_user):
    """Interactions of `num_rows / 10` users with `num_rows / 100` movies."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    rng = np.random.default_rng(0)
    users = rng.integers(1, num_rows // 10 + 2, num_rows)
    if by_user:
        users.sort()
    movies = (rng.pareto(1.0, num_rows) * num_rows / 2000).astype("int64")
    columns = [pa.array(users), pa.array(movies % (num_rows // 100 + 1) + 1)]
    if strings:
        columns = [
            pc.binary_join_element_wise(mark, column.cast(pa.string()), "")
            for mark, column in zip(("user-", "B00"), columns, strict=True)
        ]
    stars = pc.divide(pa.array(rng.integers(1, 11, num_rows)), 2.0)
    times = rng.integers(789_652_009, 1_574_327_703, num_rows)
    return pa.table([*columns, stars, pa.array(times)], names=list(NAMES))


def write(folder, num_rows, kind, strings, by_user):
    from pyarrow import csv, parquet

    name = f"{num_rows}{'_strings' * strings}{'_by_user' * by_user}.{kind}"
    path = folder / name
    if not path.exists():
        table = make_table(num_rows, strings, by_user)
        if kind == "csv":
            options = csv.WriteOptions(quoting_style="none")
            csv.write_csv(table, path, options)
        else:
            parquet.write_table(table, path)
    path.read_bytes()  # So that the first reader does not wait for the disk.
    return path


def read(reader, path):
    """Reads a file in this process; returns seconds and peak MiB."""
    warnings.simplefilter("ignore")
    kind = pathlib.Path(path).suffix[1:]
    modules = {
        "arrow": ["pyarrow.csv", "pyarrow.parquet", "pyarrow.dataset"],
        "pandas": ["pandas", "pyarrow.parquet", "pyarrow.dataset"],
        "polars": ["polars"],
    }
    ours = ["keras_dp_retrieval", "pyarrow.csv", "pyarrow.dataset"]
    for name in modules.get(reader, ours):
        importlib.import_module(name)
    base = peak_mib()
    start = time.perf_counter()
    if reader == "arrow":
        library = sys.modules[f"pyarrow.{kind}"]
        made = getattr(
            library, {"csv": "read_csv", "parquet": "read_table"}[kind]
        )(path)
    elif reader in ("pandas", "polars"):
        made = getattr(sys.modules[reader], f"read_{kind}")(path)
    else:
        data_set = sys.modules["keras_dp_retrieval"].RetrievalDataset
        made = getattr(data_set, f"from_{kind}")(
            path,
            rating_column="rating",
            timestamp_column="timestamp",
            rating_range=(0.5, 5),
            split=reader,
        )
        made.leakage  # noqa: B018
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak": peak_mib(), "imports": base}


def peak_mib():
    # `ru_maxrss` begins with what the process that started this one had.
    status = pathlib.Path("/proc/self/status").read_text()
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(line) / 1024


def in_own_process(reader, path):
    command = [sys.executable, __file__, "--reader", reader, str(path)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "KERAS_BACKEND": "jax"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def spread(values, digits):
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def compare(path, rounds):
    """Prints the rows of a table on one file."""
    found = {reader: [] for reader in READERS}
    for number in range(rounds):
        # Another one begins each round: what the last leaves behind is no
        # matter then.
        first = number % len(READERS)
        for reader in READERS[first:] + READERS[:first]:
            found[reader].append(in_own_process(reader, path))
    arrow = found["arrow"]
    for reader, runs in found.items():
        pairs = list(zip(runs, arrow, strict=True))
        cells = [
            reader,
            spread([run["seconds"] for run in runs], 2),
            spread([run["seconds"] / one["seconds"] for run, one in pairs], 1),
            f"{statistics.median(run['peak'] for run in runs):.0f}",
            spread([run["peak"] / one["peak"] for run, one in pairs], 2),
        ]
        print(f"| {' | '.join(cells)} |", flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--kinds", nargs="+", default=["csv", "parquet"])
    parser.add_argument(
        "--ids", nargs="+", default=["numbers", "strings"], help="of both"
    )
    parser.add_argument("--by-user", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="keeps the files that are read")
    parser.add_argument("--reader", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.reader:
        print(json.dumps(read(*args.reader)))
        return
    print(
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python "
        f"{platform.python_version()}; {args.rounds} rounds\n"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(args.folder or temporary)
        for num_rows in args.rows:
            for kind in args.kinds:
                for ids in args.ids:
                    path = write(
                        folder, num_rows, kind, ids == "strings", args.by_user
                    )
                    print(f"{num_rows:,} rows, {kind}, ids are {ids}:\n")
                    print("| | seconds | over Arrow | MiB | over Arrow |")
                    print("| --- | --- | --- | --- | --- |")
                    found = compare(path, args.rounds)
                    base = found["random"][0]["imports"]
                    print(f"\nOurs has {base:.0f} MiB after the imports.\n")


if __name__ == "__main__":
    main()
