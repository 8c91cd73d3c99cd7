"""Processes that die, freeze or hold others up in the middle of a `fit`."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from keras_dp_retrieval.processes import process_group

PROGRAM = pathlib.Path(__file__).parent / "programs" / "one_of_several.py"

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path):
    """Starts two processes by hand, as on two hosts, and ends them all."""
    processes = []

    def started(mode, heartbeat=10, stalled=60):
        arguments = [str(heartbeat), str(stalled), str(tmp_path)]
        port = process_group.free_port()
        for environment in process_group.environments(2, port, 1):
            processes.append(
                subprocess.Popen(
                    [sys.executable, PROGRAM, mode, *arguments],
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        return processes

    yield started
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


def said_by(process):
    """What it says of others, when it has ended."""
    _, errors = process.communicate(timeout=200)
    lines = errors.splitlines()
    return [line for line in lines if line.startswith("keras_dp_retrieval: ")]


def test_a_killed_process_is_named_and_the_other_ends(run):
    processes = run("kill1")
    said = said_by(processes[0])
    assert processes[0].returncode not in (0, None)
    line = next(line for line in said if "Process 1 (host " in line)
    assert f"pid {processes[1].pid})" in line and "fit, epoch " in line


def test_the_other_ends_where_process_0_was_killed(run):
    processes = run("kill0")
    _, errors = processes[1].communicate(timeout=200)
    assert processes[1].returncode not in (0, None)
    # JAX ends it in the same moment, so that our line may not get out.
    assert (
        "keras_dp_retrieval: Process 0 (host" in errors
        or "the JAX distributed service detected fatal errors" in errors
    )


@pytest.mark.parametrize("lost", [0, 1])
def test_launch_names_who_was_killed_and_returns_its_code(lost, tmp_path):
    launch = [sys.executable, "-m", "keras_dp_retrieval", "launch", "--"]
    program = [sys.executable, PROGRAM, f"kill{lost}", "30", "60", tmp_path]
    done = subprocess.run(
        [*launch, *program], stderr=subprocess.PIPE, text=True, timeout=200
    )
    assert f"launch: Process {lost} (pid " in done.stderr
    assert "was ended by SIGKILL; the other 1 are ended" in done.stderr
    assert done.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize("lost", [0, 1])
def test_a_frozen_process_is_named_and_the_other_ends(run, lost):
    processes = run(f"stop{lost}")
    said = said_by(processes[1 - lost])
    assert processes[1 - lost].returncode not in (0, None)
    assert processes[lost].poll() is None  # Frozen, to the end.
    assert any(
        f"Process {lost} (host " in line and "has not answered for" in line
        for line in said
    ), said


@pytest.mark.parametrize("failing", [0, 1])
def test_one_that_raises_ends_the_other_and_says_why(run, failing):
    processes = run(f"raise{failing}", heartbeat=300)
    (said,) = said_by(processes[1 - failing])
    assert f"Process {failing} (host " in said
    assert "fit, epoch 2, step 2: ArithmeticError: these data are bad" in said
    processes[failing].communicate(timeout=60)
    assert [process.returncode for process in processes] == [1, 1]


@pytest.mark.parametrize("leaving", [0, 1])
def test_one_that_exits_ends_the_other_and_says_with_which_code(run, leaving):
    processes = run(f"exit{leaving}", heartbeat=300)
    (said,) = said_by(processes[1 - leaving])
    assert f"Process {leaving} (host " in said
    assert "ended, fit, epoch 2, step 2, with exit code 3." in said
    processes[leaving].communicate(timeout=60)
    assert processes[leaving].returncode == 3
    assert processes[1 - leaving].returncode == 1


def test_one_that_is_stuck_is_named_with_its_line(run):
    processes = run("stuck1", heartbeat=300, stalled=3)
    for line in processes[0].stderr:
        if "running fail (one_of_several.py:" in line:
            break
    else:
        pytest.fail("It ended, and said nothing.")
    assert f"process 1 (host {os.uname().nodename}, pid" in line
    assert "epoch 2, step 2" in line
    assert [process.poll() for process in processes] == [None, None]


def test_without_failures_all_end_well(run):
    processes = run("none")
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        assert "keras_dp_retrieval: " not in errors
