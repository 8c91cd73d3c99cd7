"""How fast do files that need not fit into memory become equal batches?

    taskset -c 0,1 python benchmarks/bench_streaming.py --rows 100000000
    python benchmarks/bench_streaming.py --rows 1000000 --readers ours tf
    python benchmarks/bench_streaming.py --readers ours fit --max-history 50

A synthetic Parquet folder is written once: int32 users, candidates and time
stamps, a twentieth as many users as rows and a two-hundredth as many
candidates, row groups of a million rows. Then, each in a process of its own:

- `ours`: the data set is made (the passes over the files), and one epoch of its
  train part becomes batches, without a model;
- `arrow`: what reading costs alone: a scan of the two id columns;
- `tf`, `grain`: the same blocks, read and encoded by our code and shuffled
  inside a block (ours mixes 16), in a pipeline of `tf.data` or Grain that
  reads ahead on two threads and cuts batches;
- `tf_rows`, `grain_rows`: as their guides have it, an element a row;
- `fit`: `TwoTowerRetrieval.fit` with the in-batch softmax over 1024 rows, dim
  16, Adagrad.

With `--max-history` the histories of the users come with the batches of `ours`
and `fit`, and `fit` trains a `RecencyTower`.

Ends with seconds, rows a second, CPU seconds and the peak of the process's
memory.
"""

import argparse
import importlib
import itertools
import json
import os
import pathlib
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time

BATCH, BATCH_OF_FIT = 4096, 1024
IMPORTS = {
    "arrow": ["pyarrow.dataset"],
    "ours": ["keras_dp_retrieval", "pyarrow.dataset"],
    "tf": ["keras_dp_retrieval", "pyarrow.dataset", "tensorflow"],
    "grain": ["keras_dp_retrieval", "pyarrow.dataset", "grain"],
}
READERS = ("arrow", "ours", "tf", "grain", "tf_rows", "grain_rows", "fit")


def make_folder(folder, num_rows):
    """Writes the files, unless they are there."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    folder = folder / str(num_rows)
    if (folder / "_done").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    num_users, num_candidates = max(num_rows // 20, 2), max(num_rows // 200, 2)
    for number, start in enumerate(range(0, num_rows, 10_000_000)):
        size = min(10_000_000, num_rows - start)
        rng = np.random.default_rng(number)
        popular = rng.random(size) ** 2
        table = pa.table(
            {
                "user_id": rng.integers(1, num_users + 1, size, dtype=np.int32),
                "item_id": (popular * num_candidates).astype("int32") + 1,
                "timestamp": rng.integers(
                    1_500_000_000, 1_700_000_000, size, dtype=np.int32
                ),
            }
        )
        path = folder / f"{number:03}.parquet"
        parquet.write_table(table, path, row_group_size=1_000_000)
    (folder / "_done").touch()
    return folder


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_mib():
    # `ru_maxrss` begins with what the process that started this one had.
    status = pathlib.Path("/proc/self/status").read_text()
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(line) / 1024


def make_dataset(folder, batch_size=BATCH, max_history=None):
    import keras_dp_retrieval as kdr

    return kdr.RetrievalDataset.from_parquet(
        folder,
        streaming=True,
        timestamp_column="timestamp",
        batch_size=batch_size,
        max_history=max_history,
    )


def blocks_of(data):
    """Reads a block of the train part as `(users, candidates)`, shuffled."""
    import numpy as np

    from keras_dp_retrieval.data.streaming.row_order import Piece

    reader = data.batches("train")._reader
    counts = reader.counts

    def read(block):
        columns = reader.read([Piece(block, 0, int(counts[block]))])
        order = np.random.default_rng(block).permutation(len(columns[0]))
        return tuple(column[order] for column in columns)

    return np.flatnonzero(counts), read


def with_ours(folder, max_history=None):
    data = make_dataset(folder, max_history=max_history)
    groups = data.batches("train").numpy_groups(16)
    if max_history is None:
        return data, (group[0] for group in groups)
    return data, (group[0]["user_id"] for group in groups)


def with_arrow(folder):
    from pyarrow import dataset

    source = dataset.dataset(folder, format="parquet")
    scanned = source.to_batches(columns=["user_id", "item_id"])
    return None, (batch.column(0) for batch in scanned)


def with_tf(folder):
    data = make_dataset(folder)
    blocks, read = blocks_of(data)
    from keras_dp_retrieval.data._tensorflow import import_tensorflow

    tf = import_tensorflow()
    dataset = tf.data.Dataset.from_tensor_slices(blocks).shuffle(len(blocks))
    dataset = dataset.map(
        lambda block: tf.numpy_function(read, [block], [tf.int32] * 2),
        num_parallel_calls=2,
    )
    dataset = dataset.rebatch(BATCH).prefetch(4)
    return data, (batch[0] for batch in dataset.as_numpy_iterator())


def with_tf_rows(folder):
    data = make_dataset(folder)
    blocks, read = blocks_of(data)
    from keras_dp_retrieval.data._tensorflow import import_tensorflow

    tf = import_tensorflow()
    dataset = tf.data.Dataset.from_tensor_slices(blocks).shuffle(len(blocks))
    dataset = dataset.map(
        lambda block: tf.numpy_function(read, [block], [tf.int32] * 2),
        num_parallel_calls=2,
    )
    dataset = dataset.map(lambda *c: [tf.ensure_shape(x, [None]) for x in c])
    dataset = dataset.unbatch().shuffle(2**20).batch(BATCH).prefetch(4)
    return data, (batch[0] for batch in dataset.as_numpy_iterator())


def with_grain(folder):
    import grain

    data = make_dataset(folder)
    blocks, read = blocks_of(data)
    dataset = grain.MapDataset.source(blocks).shuffle(seed=0).map(read)
    dataset = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    )
    dataset = grain.experimental.RebatchIterDataset(
        dataset, BATCH, drop_remainder=False
    )
    return data, (batch[0] for batch in dataset)


def with_grain_rows(folder):
    import grain

    data = make_dataset(folder)
    dataset = grain.experimental.ParquetIterDataset(
        sorted(map(str, folder.glob("*.parquet")))[0]
    )
    dataset = grain.experimental.WindowShuffleIterDataset(
        dataset, window_size=10_000, seed=0
    )
    dataset = dataset.batch(BATCH)
    return data, (batch["user_id"] for batch in dataset)


def measure(reader, folder, most_rows, max_history):
    """Reads an epoch in this process."""
    if reader == "fit":
        return measure_fit(folder, most_rows, max_history)
    options = {"max_history": max_history} if reader == "ours" else {}
    for name in IMPORTS[reader.removesuffix("_rows")]:
        importlib.import_module(name)
    base = peak_mib()
    start, begun = time.perf_counter(), cpu_seconds()
    data, batches = globals()[f"with_{reader}"](folder, **options)
    made, made_cpu = time.perf_counter(), cpu_seconds()
    peak_made = peak_mib()
    num_rows = len_of(next(batches))
    first = time.perf_counter()
    for batch in batches:
        num_rows += len_of(batch)
        if num_rows >= most_rows:
            break
    stop = time.perf_counter()
    return {
        "make_s": made - start if data else 0,
        "make_cpu_s": made_cpu - begun if data else 0,
        "peak_made_mib": peak_made,
        "first_batch_s": first - start,
        "rows": num_rows,
        "rows_per_s": num_rows / (stop - made),
        "rows_per_cpu_s": num_rows / (cpu_seconds() - made_cpu),
        "peak_mib": peak_mib(),
        "before_mib": base,
    }


def len_of(batch):
    return batch.size if hasattr(batch, "size") else len(batch)


def measure_fit(folder, most_rows, max_history):
    import jax
    import keras

    import keras_dp_retrieval as kdr

    start = time.perf_counter()
    data = make_dataset(folder, BATCH_OF_FIT, max_history)
    before = peak_mib()
    tower = max_history and kdr.RecencyTower(data.num_candidates, 16)
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, 16, objective="in_batch_softmax", user_tower=tower
    )
    model.compile(keras.optimizers.Adagrad(0.1), steps_per_execution=16)
    steps = min(data.steps_per_epoch, -(-most_rows // BATCH_OF_FIT))
    ends = []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            ends.append((batch, time.perf_counter(), cpu_seconds()))

    model.fit(data.train, steps_per_epoch=steps, verbose=0, callbacks=[Clock()])
    jax.block_until_ready([weight.value for weight in model.weights])
    stop, stop_cpu = time.perf_counter(), cpu_seconds()
    # The first two groups are compiled in.
    skipped, since, since_cpu = ends[2]
    num_rows = (steps - skipped) * BATCH_OF_FIT
    tables = [*model.weights, *model.optimizer.variables]
    return {
        "first_batch_s": ends[1][1] - start,
        "rows": num_rows,
        "rows_per_s": num_rows / (stop - since),
        "rows_per_cpu_s": num_rows / (stop_cpu - since_cpu),
        "peak_mib": peak_mib(),
        "peak_made_mib": before,
        "model_mib": sum(w.value.nbytes for w in tables) / 2**20,
    }


def in_own_process(reader, folder, most_rows, max_history):
    command = [sys.executable, __file__, "--reader", reader, str(folder)]
    command += ["--read-rows", str(most_rows)]
    if max_history is not None:
        command += ["--max-history", str(max_history)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "jax"},
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--read-rows", type=int, default=10**12)
    parser.add_argument("--readers", nargs="+", default=READERS)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--max-history", type=int)
    parser.add_argument("--folder", help="keeps the files that are read")
    parser.add_argument("--reader", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.reader:
        reader, folder = args.reader
        found = measure(
            reader, pathlib.Path(folder), args.read_rows, args.max_history
        )
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as temporary:
        for num_rows in args.rows:
            folder = make_folder(
                pathlib.Path(args.folder or temporary), num_rows
            )
            for _, reader in itertools.product(
                range(args.rounds), args.readers
            ):
                # A row is an element: these would take hours.
                slow = reader.endswith("_rows") or reader == "fit"
                few = min(args.read_rows, 2_000_000 if slow else 10**12)
                found = in_own_process(reader, folder, few, args.max_history)
                shown = {name: round(value, 1) for name, value in found.items()}
                load = os.getloadavg()[0]
                print(
                    json.dumps(
                        {
                            "reader": reader,
                            "of_rows": num_rows,
                            "max_history": args.max_history,
                            **shown,
                            "load": round(load, 1),
                        }
                    ),
                    flush=True,
                )
    print(
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python "
        f"{platform.python_version()}"
    )


if __name__ == "__main__":
    main()
