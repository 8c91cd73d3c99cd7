"""Does a process that works for hours grow?

    python benchmarks/soak.py --minutes 60
    python benchmarks/soak.py --minutes 30 --processes 2

One process trains, evaluates, saves, loads, recommends, grows, and now and then
searches for hyperparameters, again and again, as a service that is trained anew
every few minutes does; each time with a new model and new data, of the same
size. (JAX keeps a program for each size of arrays that it met, up to a limit of
its own; where sizes change much, `jax.clear_caches()` frees them.) After each
cycle it writes down its memory and what of it is in use (glibc keeps memory
that was freed, in pieces, until `malloc_trim` gives it back), threads, open
files, and the arrays and compiled programs that JAX holds. What is printed is
the median of each fifth of the cycles, without the first ones, which load and
compile what all need.

Virtual devices and processes on loopback share the cores of one machine: no
figure here speaks of speed.
"""

import argparse
import ctypes
import gc
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")

WARM_UP = 3
SEARCH_EVERY = 10


def memory_mb() -> float:
    """What Linux counts as resident of this process."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def state_of_process() -> dict:
    """What the process holds now."""
    import jax

    gc.collect()
    memory = memory_mb()
    ctypes.CDLL(None).malloc_trim(0)
    return {
        "memory_mb": memory,
        "in_use_mb": memory_mb(),
        "threads": len(os.listdir("/proc/self/task")),
        "open_files": len(os.listdir("/proc/self/fd")),
        "objects": len(gc.get_objects()),
        "arrays": len(jax.live_arrays()),
        "programs": len(jax.devices()[0].client.live_executables()),
    }


def cycle(number: int, folder: pathlib.Path, alone: bool) -> None:
    """One round of all that a user does with a model."""
    import keras
    import numpy as np

    import keras_dp_retrieval as kdr

    objectives = ("rating", "in_batch_softmax", "full_softmax")
    data = kdr.RetrievalDataset.from_synthetic(
        900, 400, 15_000, batch_size=500, seed=number
    )
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, 16, objective=objectives[number % len(objectives)]
    )
    model.compile(keras.optimizers.Adagrad(0.1), steps_per_execution=5)
    callbacks = [
        kdr.DistributionAwareCallback(),
        kdr.RetrievalMetrics(data, ks=(10,)),
    ]
    model.fit(
        data.train,
        validation_data=data.validation,
        epochs=2,
        verbose=0,
        callbacks=callbacks,
    )
    kdr.evaluate(model, data)
    path = folder / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    users = data.user_vocabulary.ids[:50]
    found = loaded.recommend(users, k=10)[0]
    np.testing.assert_array_equal(found, model.recommend(users, k=10)[0])
    loaded.add_candidates([10**6 + number], np.zeros((1, 16), "float32"))
    loaded.build_index()
    loaded.recommend(users, k=10)
    if alone and number % SEARCH_EVERY == 0:
        with tempfile.TemporaryDirectory(dir=folder) as trials:
            kdr.search(
                data,
                max_trials=2,
                epochs=1,
                directory=trials,
                embedding_dimension=[8, 16],
                verbose=0,
            )


def soak(minutes: float, folder, start=None) -> list[dict]:
    """Runs cycles for so long; returns the state after each.

    Args:
        minutes: float.
        folder: Where models are saved; the same for all processes.
        start: Optional list, arguments of `initialize_processes`.
    """
    import jax
    import keras
    import numpy as np
    from jax.experimental import multihost_utils

    import keras_dp_retrieval as kdr

    if start is not None:
        kdr.initialize_processes(*start)

    states = []
    began = time.monotonic()
    go_on = True
    while go_on:
        keras.utils.clear_session()
        kdr.data_parallel()
        cycle(len(states), pathlib.Path(folder), alone=start is None)
        states.append(
            {"seconds": time.monotonic() - began, **state_of_process()}
        )
        go_on = time.monotonic() - began < 60 * minutes
        if start is not None:
            # All stop together: the first process says when.
            go_on = bool(multihost_utils.broadcast_one_to_all(np.array(go_on)))
        if jax.process_index() == 0:
            print(json.dumps(states[-1]), file=sys.stderr, flush=True)
    return states


def summary(states: list[dict]) -> str:
    """A table: the median of each fifth of the cycles."""
    states = states[WARM_UP:]
    if len(states) < 5:
        return f"Too few cycles: {len(states)} after {WARM_UP} to warm up."
    fifths = [
        states[len(states) * i // 5 : len(states) * (i + 1) // 5]
        for i in range(5)
    ]
    lines = [
        f"{len(states)} cycles in {states[-1]['seconds'] / 60:.0f} minutes",
        "",
        "| fifth | memory, MB | in use, MB | threads | open files | objects | "
        "JAX arrays | programs |",
        "| --- " * 8 + "|",
    ]
    for number, fifth in enumerate(fifths, 1):
        cells = [
            statistics.median(state[key] for state in fifth)
            for key in states[0]
            if key != "seconds"
        ]
        text = " | ".join(f"{cell:,.0f}" for cell in cells)
        lines.append(f"| {number} | {text} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--start", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start:
        start = json.loads(arguments.start)
        states = soak(arguments.minutes, arguments.folder, start)
        print(f"process {start[2]}\n{summary(states)}", flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        if arguments.processes == 1:
            print(summary(soak(arguments.minutes, folder)))
            return
        with socket.socket() as listener:
            listener.bind(("localhost", 0))
            address = f"localhost:{listener.getsockname()[1]}"
        running = [
            subprocess.Popen(
                [
                    *(sys.executable, __file__, "--folder", folder),
                    *("--minutes", str(arguments.minutes)),
                    *("--start", json.dumps([address, arguments.processes, i])),
                ]
            )
            for i in range(arguments.processes)
        ]
        codes = [process.wait() for process in running]
    sys.exit(max(map(abs, codes)))


if __name__ == "__main__":
    main()
