"""Would Orbax keep our checkpoints better than `CheckpointFiles`?

    pip install orbax-checkpoint
    python benchmarks/bench_orbax.py --kills 30 --flips 60 --pairs 7

Both save the same state: arrays of the types that training has, and JSON.
Counts how many saves that SIGKILL broke off left something whole, and how many
single flipped bits are noticed when a checkpoint is read; takes the times of
saving and loading in turn. Orbax is as its guide has it: a `CheckpointManager`,
arrays and JSON as two items, saved before it returns, as ours is.
"""

import argparse
import collections
import functools
import itertools
import json
import logging
import multiprocessing
import pathlib
import random
import shutil
import statistics
import tempfile
import time
import warnings

import ml_dtypes
import numpy as np

from keras_dp_retrieval.callbacks.checkpoint_files import CheckpointFiles


class Ours:
    """`CheckpointFiles`."""

    name = "ours"

    def __init__(self, folder):
        self._files = CheckpointFiles(folder, keep=2)

    def save(self, number, arrays, state):
        self._files.save(number, 0, state, arrays)

    def load(self):
        found = self._files.newest()
        return None if found is None else (dict(found.arrays), found.state)


class Orbax:
    """`orbax.checkpoint.CheckpointManager`."""

    name = "Orbax"

    def __init__(self, folder):
        import orbax.checkpoint as ocp

        self._args = ocp.args
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(folder, options=options)

    def save(self, number, arrays, state):
        items = self._args.Composite(
            arrays=self._args.StandardSave(arrays),
            state=self._args.JsonSave(state),
        )
        self._manager.save(number, args=items)
        self._manager.wait_until_finished()

    def load(self):
        if self._manager.latest_step() is None:
            return None
        items = self._args.Composite(
            arrays=self._args.StandardRestore(),
            state=self._args.JsonRestore(),
        )
        found = self._manager.restore(self._manager.latest_step(), args=items)
        return dict(found.arrays), found.state


KINDS = {kind.name: kind for kind in (Ours, Orbax)}


def checkpoint(number, num_rows=2000):
    """The arrays and the JSON of one save."""
    rng = np.random.default_rng(number)
    arrays = {
        f"variable_{i}": rng.normal(size=(num_rows, 64)).astype("float32")
        for i in range(4)
    }
    arrays["seeds"] = rng.integers(0, 2**32, 624, dtype="uint32")
    arrays["step"] = np.array(number, "int32")
    arrays["short"] = rng.normal(size=33).astype(ml_dtypes.bfloat16)
    arrays["edges"] = np.array([np.nan, -0.0, np.inf, 1e-42], "float32")
    return arrays, {"number": number, "best": float("inf"), "logs": [1, None]}


def is_same(found, number) -> bool:
    """Whether every bit, type and value is that of one save."""
    arrays, state = checkpoint(number)
    return found[1] == state and all(
        np.asarray(found[0][name]).dtype == array.dtype
        and np.asarray(found[0][name]).tobytes() == array.tobytes()
        for name, array in arrays.items()
    )


def save_for_ever(name, folder, ready):
    """A process that is killed while it does so."""
    saver = KINDS[name](folder)
    first = saver.load()
    ready.set()
    for number in itertools.count(first[1]["number"] + 1 if first else 1):
        saver.save(number, *checkpoint(number))


def kill(kind, folder, times) -> dict:
    """Kills a process that saves, and looks at what is there."""
    rng, outcomes = random.Random(0), collections.Counter()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["keras_dp_retrieval", "orbax.checkpoint"])
    for _ in range(times):
        ready = context.Event()
        process = context.Process(
            target=save_for_ever, args=(kind.name, folder, ready)
        )
        process.start()
        ready.wait()
        time.sleep(rng.uniform(0, 1))
        process.kill()
        process.join()
        found = kind(folder).load()
        if found is None:
            outcomes["nothing yet"] += 1
        else:
            same = is_same(found, found[1]["number"])
            outcomes["whole" if same else "WRONG"] += 1
    return dict(outcomes)


def flip(kind, folder, times) -> dict:
    """Flips one bit at a time in the newest of two checkpoints."""
    for number in (1, 2):
        kind(folder).save(number, *checkpoint(number))
    kept = folder.with_name("kept")
    shutil.copytree(folder, kept)
    rng, outcomes = random.Random(0), collections.Counter()
    for _ in range(times):
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        newest = max(folder.iterdir(), key=lambda path: path.name)
        files = [newest, *newest.rglob("*")]
        files = [path for path in files if path.is_file()]
        sizes = [path.stat().st_size for path in files]
        path = rng.choices(files, sizes)[0]
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            found = kind(folder).load()
        except Exception:
            outcomes["an error"] += 1
            continue
        if is_same(found, 1):
            outcomes["the one before is used"] += 1
        else:
            same = is_same(found, 2)
            outcomes["no difference" if same else "WRONG, unnoticed"] += 1
    shutil.rmtree(kept)
    return dict(outcomes)


def compare_times(folder, pairs, num_rows) -> dict:
    """Times and CPU times of Orbax over ours, in turn."""
    arrays, state = checkpoint(0, num_rows)
    both = [kind(folder / name) for name, kind in KINDS.items()]
    seconds: dict = {}

    def timed(what, which, function):
        began = time.perf_counter(), time.process_time()
        function()
        now = time.perf_counter(), time.process_time()
        for clock, a, b in zip(("wall", "CPU"), began, now, strict=True):
            seconds.setdefault((what, clock, which), []).append(b - a)

    for number in range(pairs + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            save = functools.partial(both[which].save, number, arrays, state)
            timed("save", which, save)
            timed("load", which, both[which].load)
    result = {}
    for what, clock in itertools.product(("save", "load"), ("wall", "CPU")):
        ours, others = (seconds[what, clock, which][1:] for which in (0, 1))
        ratios = [b / a for a, b in zip(ours, others, strict=True)]
        result[f"{what}, {clock}"] = [
            round(f(ratios), 2) for f in (statistics.median, min, max)
        ]
    for name in KINDS:
        files = [p for p in (folder / name).rglob("*") if p.is_file()]
        result[f"MB, {name}"] = sum(p.stat().st_size for p in files) / 2e6
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--flips", type=int, default=60)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--rows", type=int, default=200_000)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for name, kind in KINDS.items():
            killed = kill(kind, folder / f"killed {name}", arguments.kills)
            print(json.dumps({"killed": name, **killed}), flush=True)
            flipped = flip(kind, folder / f"flipped {name}", arguments.flips)
            print(json.dumps({"a bit flipped": name, **flipped}), flush=True)
        times = compare_times(folder / "timed", arguments.pairs, arguments.rows)
        print(json.dumps({"Orbax over ours": times}))


if __name__ == "__main__":
    main()
