"""Starts `programs/train_killed.py` until it ends, and compares the bits.

Every start is a process of its own, forked from one that has imported all: the
imports would take most of the time.
"""

import dataclasses
import json
import multiprocessing
import pathlib
import random
import signal

import pyarrow as pa
from pyarrow import parquet

from tests import resumed_runs as runs
from tests.programs.train_killed import Job, train
from tests.test_multi_process import free_port

_IMPORTED = ["keras_dp_retrieval", "tensorflow", "tests.resumed_runs"]

# A start that was not killed and has not ended by then hangs.
SECONDS = 300


def context():
    """What starts processes."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(_IMPORTED)
    return found


def write_data(folder: pathlib.Path) -> None:
    """Writes the streamed data of `Job.folder`."""
    (folder / "data").mkdir(parents=True)
    table = pa.table(runs.interactions())
    parquet.write_table(
        table, folder / "data" / "part.parquet", row_group_size=30
    )


def start(job: Job) -> list:
    """Starts all processes of a job, and returns how each ended.

    Returns:
        list of exit codes, -9 of one that was killed.
    """
    port = free_port() if job.processes > 1 else 0
    started = []
    for number in range(job.processes):
        mine = dataclasses.replace(
            job,
            process=number,
            port=port,
            output=f"{job.output}.{number}",
            # One of them is killed; its scheduler kills the others.
            kill_at=job.kill_at if number == job.processes - 1 else None,
        )
        kind, when = job.kill_at or ("", 0)
        if kind == "terminate":  # Wherever they are.
            mine.kill_at = kind, when + number
        elif kind in ("write", "rename", "prune"):
            mine.kill_at = None if number else job.kill_at  # The writer.
        process = context().Process(target=train, args=(mine,))
        process.start()
        started.append(process)
    try:
        _wait(started)
    finally:
        for process in started:
            if process.is_alive():
                process.kill()
            process.join()
    return [process.exitcode for process in started]


def _wait(started) -> None:
    """Until all have ended, or one has not ended well."""
    left = {process.sentinel: process for process in started}
    while left:
        ended = multiprocessing.connection.wait(list(left), SECONDS)
        if not ended:
            return
        for sentinel in ended:
            process = left.pop(sentinel)
            process.join()
            if process.exitcode not in (0, 128 + signal.SIGTERM):
                return


def result(job: Job) -> list:
    """Digest and history, of the first process."""
    return json.loads(pathlib.Path(f"{job.output}.0").read_text())


def log(job: Job) -> str:
    """What the processes printed."""
    return "".join(
        path.read_text()[-2000:]
        for path in pathlib.Path(job.output).parent.glob("*.log")
    )


def expected(job: Job, folder: pathlib.Path) -> list:
    """The result of a run that is not saved and not killed."""
    whole = dataclasses.replace(
        job,
        folder=str(folder),
        output=str(folder / "whole"),
        resume=False,
        kill_at=None,
    )
    codes = start(whole)
    assert codes == [0] * job.processes, log(whole)
    return result(whole)


@dataclasses.dataclass
class Outcome:
    """What came of a run that was killed.

    Attributes:
        kills: list of `kill_at`, as far as the run got there.
        same_weights: bool. Whether every bit of the model is the same.
        same_history: bool.
    """

    kills: list
    same_weights: bool
    same_history: bool


def killed(job: Job, folder: pathlib.Path, kills: list) -> Outcome:
    """Kills a run some times, and lets it end.

    Args:
        job: `Job`.
        folder: For data and checkpoints.
        kills: list of `Job.kill_at`, one after the other.
    """
    folder.mkdir(exist_ok=True, parents=True)
    if not (folder / "data").exists():
        write_data(folder)
    whole = expected(job, folder)
    job = dataclasses.replace(
        job, folder=str(folder), output=str(folder / "killed")
    )
    done = []
    for kill_at in [*kills, None]:
        codes = start(dataclasses.replace(job, kill_at=kill_at))
        has_saved = codes == [128 + signal.SIGTERM] * job.processes
        if kill_at and (-signal.SIGKILL in codes or has_saved):
            done.append(kill_at)
            continue
        assert codes == [0] * job.processes, (codes, log(job))
    found = result(job)
    return Outcome(done, found[0] == whole[0], found[1] == whole[1])


def random_kill(rng: random.Random, fused: int) -> tuple:
    """Somewhere in a start, before the third epoch at the latest."""
    kind = rng.choice(["step", "step", "write", "rename", "prune"])
    return kind, rng.randint(2, 12 if kind == "step" and fused == 1 else 4)
