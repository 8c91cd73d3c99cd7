"""What does one wait for in `keras-dp-retrieval train` on MovieLens 100K?

    taskset -c 0,1 python benchmarks/bench_first_command.py --data-dir data

The command in processes of its own, from their start to their end: with an
empty folder for compiled programs (cold), then with what that has left there
(warm), in turn. A row is a phase, with what JAX says of it: seconds of tracing
and lowering, and of compiling or reading programs, and how many these were.
Without prepared data of TFDS the ratings are synthetic. Then `--help`, in turn
with `import keras`.
"""

import argparse
import collections
import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from movielens_folder import add_data_dir, prepared

COLUMNS = ("seconds", "traced", "compiled", "programs")


class Phases:
    """What each phase took, without the phases inside it."""

    def __init__(self, start: float):
        of_none = functools.partial(dict.fromkeys, COLUMNS, 0.0)
        self.rows = collections.defaultdict(of_none)
        self._open, self._since = ["imports"], start

    @contextlib.contextmanager
    def inside(self, name):
        self._add()
        self._open.append(name)
        yield
        self._add()
        self._open.pop()

    def _add(self):
        now = time.time()
        self.rows[self._open[-1]]["seconds"] += now - self._since
        self._since = now

    def wrap(self, owner, attribute, name):
        function = getattr(owner, attribute)

        def wrapped(*args, **kwargs):
            with self.inside(name):
                return function(*args, **kwargs)

        setattr(owner, attribute, wrapped)

    def listen(self, event, seconds, **_):
        row, name = self.rows[self._open[-1]], event.rpartition("/")[2]
        if name in ("jaxpr_trace_duration", "jaxpr_to_mlir_module_duration"):
            row["traced"] += seconds
        elif name == "backend_compile_duration":
            row["compiled"] += seconds
            row["programs"] += 1


def child(start, words):
    """The command, with its phases timed; they are its last line."""
    phases = Phases(start)
    import jax.monitoring

    import keras_dp_retrieval as kdr
    from keras_dp_retrieval import cli
    from keras_dp_retrieval.cli import inputs
    from keras_dp_retrieval.data import _tensorflow
    from keras_dp_retrieval.recipe import fit

    jax.monitoring.register_event_duration_secs_listener(phases.listen)
    phases.wrap(_tensorflow, "_import", "TensorFlow")
    phases.wrap(inputs, "load_data", "data")
    phases.wrap(fit, "with_trials", "trials")
    phases.wrap(fit, "_train", "training")
    phases.wrap(kdr, "evaluate", "evaluation")
    phases.wrap(kdr.TwoTowerRetrieval, "recommend", "recommendations")
    phases.wrap(kdr.TwoTowerRetrieval, "save", "saving")
    sys.argv = ["keras-dp-retrieval", "train", *words]
    with phases.inside("elsewhere"):
        status = cli.main()
    phases.rows["exit"]["seconds"] = -time.time()
    print(json.dumps(phases.rows))
    sys.exit(status)


def one_run(words, folder):
    """Wall and CPU seconds of one process, and those of its phases."""
    cache, start = os.path.join(folder, "cache"), time.time()
    process = subprocess.Popen(
        [sys.executable, __file__, "child", str(start), *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": cache, "KERAS_BACKEND": "jax"},
    )
    lines = process.stdout.read().splitlines()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"The command failed: {lines}")
    rows = json.loads(lines[-1])
    rows["exit"]["seconds"] += time.time()
    rows["all"] = {c: sum(row[c] for row in rows.values()) for c in COLUMNS}
    return {"cpu": used.ru_utime + used.ru_stime, "phases": rows}


def help_beside_keras(rounds):
    """Median wall seconds of `--help` and of `import keras`."""
    commands = ["-m", "keras_dp_retrieval", "--help"], ["-c", "import keras"]
    seconds = []
    for _ in range(rounds):
        for words in commands:
            start = time.time()
            subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL)
            seconds.append(time.time() - start)
    return [round(statistics.median(seconds[i::2]), 2) for i in (0, 1)]


def show(kind, runs):
    cpu = statistics.median(run["cpu"] for run in runs)
    print(f"\n| {kind}, CPU {cpu:.1f} s | " + " | ".join(COLUMNS) + " |")
    print("| --- " * (len(COLUMNS) + 1) + "|")
    for name in runs[0]["phases"]:
        rows = [run["phases"][name] for run in runs]
        cells = [statistics.median(row[c] for row in rows) for c in COLUMNS]
        print(f"| {name} | " + " | ".join(f"{x:.3g}" for x in cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_data_dir(parser, required=False)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--help-rounds", type=int, default=9)
    arguments = parser.parse_args()
    words = ["--source", "synthetic"]
    if arguments.data_dir is not None:
        words = ["--data-dir", str(prepared(arguments.data_dir).resolve())]
    runs = {"cold": [], "warm": []}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for kind in runs:
                runs[kind].append(one_run(words, folder))
    for kind, found in runs.items():
        show(kind, found)
    beside = help_beside_keras(arguments.help_rounds)
    print("\n`--help`, and `import keras`: {} s, {} s".format(*beside))
    print(json.dumps({"load": os.getloadavg()[0], "help": beside, **runs}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(float(sys.argv[2]), sys.argv[3:])
    main()
