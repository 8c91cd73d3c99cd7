"""Tries mutmut's changes, many in one process, and says what no test notices.

`mutmut run` starts a process for each change, which imports Keras and JAX anew.
Here a process tries one change after another, each on those tests that mutmut
has seen to reach the changed function, the shortest first:

    pip install mutmut && git worktree add ../mutated && cd ../mutated
    mutmut run 'keras_dp_retrieval.data.leakage.*'    # makes all changes
    python benchmarks/mutation_run.py try --only metrics
    python benchmarks/mutation_run.py try --only metrics --seconds 1000
    python benchmarks/mutation_run.py try --only ranker \\
        --tests tests/test_backends.py
    python benchmarks/mutation_run.py table
    python benchmarks/mutation_run.py survivors --only metrics

`try` goes on where it was stopped, and tries survivors again where it may run
more tests than before. mutmut has not seen what tests do in processes that they
start, so survivors of its record can be tried on named files of `tests` too.
`--shard 0/2` and `--shard 1/2` share the work. A change that ends the process
counts as noticed, and so does one with which the tests take four times as long
as without it and `--processor-seconds` more.
"""

import argparse
import ast
import collections
import difflib
import functools
import gc
import importlib
import json
import math
import os
import pathlib
import random
import re
import subprocess
import sys
import threading
import time

PARTS = {
    "splits, timelines, orders, leakage": r"\.data\.",
    "metrics": r"\.metrics\.",
    "row-sparse steps and rules": r"row_sparse|merged_lookups|row_rules",
    "losses": r"\.losses\.|chunked_softmax",
}
SURVIVED, ENDED_OR_STUCK = 0, 98
NOT_RUN = (4, 5)  # pytest knows no such test.
CHANGES_PER_PROCESS = 200  # Its memory grows by a few megabytes with each.
PYTEST = "-q -x -n0 --no-header -p no:cacheprovider -p no:schemathesis".split()


def all_changes():
    """`{name of a change: file}`, as mutmut has written them."""
    return {
        name: path.with_suffix("")
        for path in sorted(pathlib.Path("mutants").rglob("*.py.meta"))
        for name in json.loads(path.read_text())["exit_code_by_key"]
    }


def results():
    """`{name: {tests: exit code of pytest}}` of all shards.

    The tests are a number, so many of mutmut's record, or names of files.
    """
    found = collections.defaultdict(dict)
    for path in pathlib.Path().glob("mutation_run.*.jsonl"):
        for line in path.read_text().splitlines():
            name, tests, code = json.loads(line)
            if code is not None:  # Else only begun.
                found[name][tests] = code
    return found


def survives(codes):
    return not any(codes.values())


def tests_to_run(name, stats, seconds):
    """Tests that reach the change, as many as take so long without it."""
    duration = stats["duration_by_test"]
    function = name.rpartition("__mutmut_")[0]
    chosen, spent = [], 0.0
    for test in sorted(
        stats["tests_by_mangled_function_name"].get(function, ()),
        key=duration.get,
    ):
        spent += duration[test]
        if spent > seconds and chosen:
            break
        chosen.append(test)
    return chosen


def try_all(only, shard, seconds, tests, processor_seconds, seed):
    """Starts workers until no change is left: some end their process."""
    number, of = map(int, shard.split("/"))
    stats = json.loads(pathlib.Path("mutants/mutmut-stats.json").read_text())
    names = [name for name in all_changes() if re.search(only, name)]
    random.Random(seed).shuffle(names)
    duration = stats["duration_by_test"]
    tasks = []
    for name in names[number::of]:
        chosen = tests or tests_to_run(name, stats, seconds)
        what = " ".join(tests) or len(chosen)
        usual = sum(duration.get(test, 0.0) for test in chosen)
        tasks.append((name, what, chosen, processor_seconds + 4 * usual))
    log = pathlib.Path(f"mutation_run.{number}.jsonl").resolve()
    log.touch()
    while True:
        done = results()
        left = [
            (name, what, *task)
            for name, what, *task in tasks
            if name not in done
            or (survives(done[name]) and what not in done[name])
        ]
        if not left:
            return
        size_before = log.stat().st_size
        subprocess.run(
            [sys.executable, __file__, "work", str(log)],
            cwd="mutants",
            env={
                "JAX_COMPILATION_CACHE_DIR": os.path.abspath("programs"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                **os.environ,
                "PYTHONPATH": ".",
                "MUTANT_UNDER_TEST": "",
            },
            input=json.dumps(left),
            text=True,
            stdout=subprocess.DEVNULL,
        )
        if log.stat().st_size == size_before:
            sys.exit("No change could be tried: see what is printed above.")
        name, what, code = json.loads(log.read_text().splitlines()[-1])
        if code is None:
            with open(log, "a") as file:
                print(json.dumps([name, what, ENDED_OR_STUCK]), file=file)


def work(log):
    """Tries the changes that stdin names, each with its tests."""
    # Before JAX: it sets XLA's flags, and lets Keras read changed layers.
    importlib.import_module("tests.conftest")

    import jax
    import keras
    import pytest

    importlib.import_module("keras_dp_retrieval")  # Without a change.
    ends = [math.inf, math.inf]

    def end_what_takes_too_long():
        while time.process_time() < ends[0] and time.monotonic() < ends[1]:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=end_what_takes_too_long, daemon=True).start()
    left = json.load(sys.stdin)[:CHANGES_PER_PROCESS]
    # Imported now, without a change: pytest says of a file that can't be
    # imported what it says of one that isn't there.
    files = {
        test.partition("::")[0] for _, _, chosen, _ in left for test in chosen
    }
    pytest.main(["--collect-only", "-qq", *PYTEST, *sorted(files)])
    with open(log, "a", buffering=1) as file:
        for name, what, chosen, limit in left:
            print(json.dumps([name, what, None]), file=file)
            ends[:] = time.process_time() + limit, time.monotonic() + 4 * limit
            # A compiled program would go on with the change before.
            jax.clear_caches()
            keras.backend.clear_session()
            gc.unfreeze()
            os.environ["MUTANT_UNDER_TEST"] = name
            code = SURVIVED
            if chosen:
                code = int(pytest.main([*PYTEST, "-m", "", *chosen]))
            if code in NOT_RUN:
                print("Not run:", name, chosen, file=sys.stderr)
                code = SURVIVED
            print(json.dumps([name, what, code]), file=file)


def print_table():
    """How many of each part were made, tried and noticed."""
    done, counts = results(), collections.defaultdict(collections.Counter)
    for name in all_changes():
        part = next(part for part in PARTS if re.search(PARTS[part], name))
        counts[part]["changes"] += 1
        if name in done:
            counts[part]["tried"] += 1
            counts[part]["noticed"] += not survives(done[name])
    print("| | changes | tried | noticed |\n| --- | --- | --- | --- |")
    for part in PARTS:
        of = counts[part]
        print(f"| {part} | {of['changes']} | {of['tried']} | {of['noticed']} |")


@functools.cache
def functions(path):
    """`{name: its lines}` of a file that mutmut has changed."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            own_name = node.name
            node.name, node.decorator_list = "function", []
            found[own_name] = ast.unparse(node).splitlines()
    return found


def print_survivors(only):
    """What each survivor changes, and how many tests it survived."""
    done, files = results(), all_changes()
    for name in sorted(done):
        if not survives(done[name]) or not re.search(only, name):
            continue
        lines = functions(files[name])
        changed = name.rpartition(".")[2]
        original = changed.rpartition("__mutmut_")[0] + "__mutmut_orig"
        print(f"\n{name} (tests: {', '.join(map(str, done[name]))})")
        for line in difflib.unified_diff(
            lines[original], lines[changed], n=1, lineterm=""
        ):
            if not line.startswith(("---", "+++")):
                print("   ", line)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    trying = commands.add_parser("try")
    trying.add_argument("--only", default="", help="a part of changes' names")
    trying.add_argument("--shard", default="0/1", help="this one of how many")
    trying.add_argument(
        "--seconds",
        type=float,
        default=15,
        help="of tests a change, as they take without it",
    )
    trying.add_argument(
        "--tests",
        nargs="+",
        default=[],
        help="instead of those that mutmut saw to reach the change",
    )
    trying.add_argument(
        "--processor-seconds",
        type=float,
        default=120,
        help="beside four times what the tests take without the change",
    )
    trying.add_argument("--seed", type=int, default=0)
    working = commands.add_parser("work")
    working.add_argument("log")
    commands.add_parser("table")
    surviving = commands.add_parser("survivors")
    surviving.add_argument("--only", default="")
    options = vars(parser.parse_args())
    {
        "try": try_all,
        "work": work,
        "table": print_table,
        "survivors": print_survivors,
    }[options.pop("command")](**options)


if __name__ == "__main__":
    main()
