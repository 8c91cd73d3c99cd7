"""What does one wait for in `keras-dp-retrieval train` on MovieLens 100K?

    taskset -c 0,1 python benchmarks/bench_first_command.py \
        --data-dir /path/to/data/tfds

The command, in processes of its own, from their start to their end: with an
empty folder for compiled programs (cold), then with what that run has left
there (warm), in turn. A row is a phase, with what JAX says of it: programs
that were compiled or read from that folder, and the seconds of tracing,
lowering and compiling (or reading) them, in all threads. "Elsewhere" is the
rest of the command, such as what it prints. `--data-dir` holds a prepared
copy of TFDS; without it the ratings are synthetic. Then `--help`, beside
`import keras`, in turn.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

TRACING = ("jaxpr_trace_duration", "jaxpr_to_mlir_module_duration")
PHASES = [
    *("imports", "TensorFlow", "data", "trials", "training"),
    *("evaluation", "recommendations", "saving", "elsewhere", "exit"),
]


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data-dir", metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--help-rounds", type=int, default=9)
    parser.add_argument("--child", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


class Phases:
    """Seconds of each phase, without the phases inside it."""

    def __init__(self, start: float):
        self.rows = {name: dict.fromkeys(COLUMNS, 0.0) for name in PHASES}
        self._open, self._since = ["imports"], start

    def enter(self, name):
        self._add()
        self._open.append(name)

    def leave(self):
        self._add()
        self._open.pop()

    def _add(self):
        now = time.time()
        self.rows[self._open[-1]]["seconds"] += now - self._since
        self._since = now

    def wrap(self, owner, attribute, name):
        function = getattr(owner, attribute)

        def wrapped(*args, **kwargs):
            self.enter(name)
            try:
                return function(*args, **kwargs)
            finally:
                self.leave()

        setattr(owner, attribute, wrapped)

    def listen(self, event, seconds, **_):
        row = self.rows[self._open[-1]]
        name = event.rpartition("/")[2]
        if name in TRACING:
            row["traced"] += seconds
        elif name == "backend_compile_duration":
            row["compiled"] += seconds
            row["programs"] += 1


COLUMNS = ("seconds", "traced", "compiled", "programs")


def child(arguments):
    """The command, with its phases timed; they are its last line."""
    phases = Phases(arguments.child)
    import jax.monitoring

    import keras_dp_retrieval as kdr
    from keras_dp_retrieval import cli
    from keras_dp_retrieval.cli import inputs
    from keras_dp_retrieval.recipe import fit

    jax.monitoring.register_event_duration_secs_listener(phases.listen)
    for owner, attribute, name in (
        (inputs, "_import_tensorflow_quietly", "TensorFlow"),
        (inputs, "load_data", "data"),
        (fit, "_with_trials", "trials"),
        (fit, "_train", "training"),
        (kdr, "evaluate", "evaluation"),
        (kdr.TwoTowerRetrieval, "recommend", "recommendations"),
        (kdr.TwoTowerRetrieval, "save", "saving"),
    ):
        phases.wrap(owner, attribute, name)
    phases.enter("elsewhere")
    source = ["--source", "synthetic"]
    if arguments.data_dir:
        source = ["--data-dir", arguments.data_dir]
    if cli.main(["train", *source]):
        raise SystemExit(1)
    phases.leave()
    print(json.dumps({"ended": time.time(), "phases": phases.rows}))


def one_run(arguments, cache, folder):
    """Wall and CPU seconds of one process, and those of its phases."""
    options = ["--data-dir", arguments.data_dir] if arguments.data_dir else []
    start = time.time()
    process = subprocess.Popen(
        [sys.executable, __file__, "--child", str(start), *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": cache, "KERAS_BACKEND": "jax"},
    )
    lines = process.stdout.read().splitlines()
    _, status, used = os.wait4(process.pid, 0)
    stop = time.time()
    if status:
        raise SystemExit(f"The command failed: {lines}")
    found = json.loads(lines[-1])
    phases = found["phases"]
    phases["exit"]["seconds"] = stop - found["ended"]
    phases["all"] = {c: sum(row[c] for row in phases.values()) for c in COLUMNS}
    return {
        "wall": stop - start,
        "cpu": used.ru_utime + used.ru_stime,
        "phases": phases,
    }


def help_beside_keras(rounds):
    """Wall seconds of `--help` and of `import keras`, medians."""
    commands = {
        "help": ["-m", "keras_dp_retrieval", "--help"],
        "keras": ["-c", "import keras"],
    }
    seconds = {name: [] for name in commands}
    for _ in range(rounds):
        for name, words in commands.items():
            start = time.time()
            subprocess.run(
                [sys.executable, *words],
                check=True,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "KERAS_BACKEND": "jax"},
            )
            seconds[name].append(time.time() - start)
    return {n: round(statistics.median(s), 2) for n, s in seconds.items() if s}


def middle(runs, *path):
    values = []
    for run in runs:
        for key in path:
            run = run[key]
        values.append(run)
    return round(statistics.median(values), 2)


def show(kind, runs):
    print(
        f"\n{kind}: {middle(runs, 'wall')} s, CPU {middle(runs, 'cpu')} s\n"
        "| phase | s | tracing, s | compiling, s | programs |\n"
        "| --- | --- | --- | --- | --- |"
    )
    for name in [*PHASES, "all"]:
        cells = [middle(runs, "phases", name, column) for column in COLUMNS]
        print("| " + " | ".join([name, *(f"{one:g}" for one in cells)]) + " |")


def main():
    arguments = parse()
    if arguments.child:
        return child(arguments)
    if arguments.data_dir:
        arguments.data_dir = str(pathlib.Path(arguments.data_dir).resolve())
    runs = {"cold": [], "warm": []}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for kind in runs:
                cache = os.path.join(folder, "cache")
                runs[kind].append(one_run(arguments, cache, folder))
    for kind, found in runs.items():
        show(kind, found)
    found = {
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "help": help_beside_keras(arguments.help_rounds),
        "runs": runs,
    }
    print(f"\n--help and `import keras`, s: {found['help']}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
