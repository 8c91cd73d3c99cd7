"""Is a run that is killed and started again the run that was not killed?

    python -m benchmarks.kill_matrix [--kills 2] [--seed 0]

Kills processes with SIGKILL, at random steps and while they save, starts the
same program again, and compares every bit of weights, optimizer and history
with a run that is never saved nor killed. For every objective and tower on one
device, on four virtual ones, and in two processes; data in memory, streamed
and as arrays, single and fused steps in turns. Prints a table, and ends with 1
where a bit differs.
"""

import argparse
import collections
import itertools
import pathlib
import random
import sys
import tempfile
import time

from tests import killed_runs
from tests import resumed_runs as runs
from tests.programs.train_killed import Job

# Devices of a process, and processes.
PLACES = {"1 device": (1, 1), "4 devices": (4, 1), "2 processes": (1, 2)}

DATA = ("memory", "streamed", "arrays")


def jobs():
    """Every objective, tower and place; the rest so that all pairs are there.

    Each tower gets each kind of data in each place, and each kind of data is
    trained on step by step and in fused steps.
    """
    cells = itertools.product(
        enumerate(PLACES), enumerate(runs.OBJECTIVES), enumerate(runs.TOWERS)
    )
    for (p, place), (o, objective), (t, tower) in cells:
        devices, processes = PLACES[place]
        job = Job(
            "",
            "",
            objective=objective,
            tower=tower,
            fused=(1, 4, 1)[(o + 2 * t) % 3],
            data=DATA[(p + o + t) % 3],
            devices=devices,
            processes=processes,
        )
        yield place, job


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=2, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", help="a place, objective, tower or kind of data"
    )
    args = parser.parse_args()
    rng = random.Random(args.seed)
    began, counts = time.monotonic(), collections.Counter()
    print("| where | objective | tower | fused | data | killed at | same |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for number, (place, job) in enumerate(jobs()):
            kills = [
                killed_runs.random_kill(rng, job.fused)
                for _ in range(args.kills)
            ]
            words = (place, job.objective, job.tower, str(job.fused), job.data)
            if args.only and args.only not in words:
                continue
            outcome = killed_runs.killed(
                job, pathlib.Path(folder, str(number)), kills
            )
            same = outcome.same_weights and outcome.same_history
            counts["kills"] += len(outcome.kills)
            counts["runs"] += 1
            counts["same"] += same
            at = ", ".join(f"{kind} {n}" for kind, n in outcome.kills)
            row = (*words, at, "yes" if same else f"NO {outcome}")
            print(f"| {' | '.join(row)} |", flush=True)
    print(
        f"{counts['kills']} kills of {counts['runs']} runs, of which "
        f"{counts['same']} ended with the same bits, in "
        f"{time.monotonic() - began:.0f} s."
    )
    return int(counts["same"] != counts["runs"])


if __name__ == "__main__":
    sys.exit(main())
