"""`launch`: processes of one host that are started, heard and ended."""

import os
import re
import signal
import sys

import pytest

from keras_dp_retrieval.cli import main
from keras_dp_retrieval.processes import process_place
from keras_dp_retrieval.processes.process_group import (
    ProcessGroup,
    environments,
)

# Every program says which process it is; `wait` lasts until somebody says so.
BEGIN = """
import os, signal, sys
index = int(os.environ["KERAS_DISTRIBUTION_PROCESS_ID"])
wait = signal.pause
def block(number):
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
def ready():
    open(os.environ["FIFO"], "w").close()
def others_are_ready():
    open(os.environ["FIFO"]).read()
"""


def words(program):
    return [sys.executable, "-S", "-E", "-u", "-c", BEGIN + program]


@pytest.fixture
def run(tmp_path, capfd):
    """`run(program, ...)` returns exit code, output and what was said."""
    os.mkfifo(tmp_path / "fifo")

    def started(program, grace_seconds=20.0, count=2):
        said = []
        given = environments(count, port=1)
        for environment in given:
            environment["FIFO"] = str(tmp_path / "fifo")
        group = ProcessGroup(
            [words(program)] * count, given, grace_seconds, said.append
        )
        code = group.run()
        assert all(p.returncode is not None for p in group._processes)
        return code, capfd.readouterr().out, said

    return started


def test_every_line_says_which_process_wrote_it(run):
    code, output, said = run(
        "print('one'); print('two', file=sys.stderr)\n"
        "print(os.environ['KERAS_DISTRIBUTION_NUM_PROCESSES'])",
        count=3,
    )
    assert (code, said) == (0, [])
    lines = output.splitlines()
    for index in range(3):
        mine = [line for line in lines if line.startswith(f"[{index}] ")]
        assert mine == [f"[{index}] {word}" for word in ("one", "two", "3")]
    assert len(lines) == 9


def test_when_one_fails_the_others_are_ended_and_its_code_is_kept(run):
    code, _, (said,) = run("sys.exit(7) if index else wait()")
    assert code == 7
    assert "Process 1 (pid " in said and "failed with exit code 7" in said


def test_one_that_was_killed_is_named(run):
    code, _, (said,) = run("os.kill(os.getpid(), 9) if index == 0 else wait()")
    assert code == 128 + signal.SIGKILL
    assert "Process 0" in said and "was ended by SIGKILL" in said


def test_who_does_not_end_is_killed(run):
    code, _, said = run(
        "block(signal.SIGTERM)\n"
        "if index: others_are_ready(); sys.exit(3)\n"
        "ready(); wait()",
        grace_seconds=0.05,
    )
    assert code == 3
    assert "[0] have not ended within 0.05 s: they are killed" in said[1]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_signals_are_passed_on_and_the_end_is_waited_for(run, name):
    code, output, (said,) = run(
        f"number = signal.{name}; block(number)\n"
        "if index: ready()\n"
        "else: others_are_ready(); os.kill(os.getppid(), number)\n"
        "signal.sigwait({number}); print('saved')"
    )
    assert code == 128 + getattr(signal, name)
    assert sorted(output.splitlines()) == ["[0] saved", "[1] saved"]
    assert said.startswith(f"{name}: passed on")


def test_a_second_ctrl_c_kills(run):
    code, _, said = run(
        "block(signal.SIGINT)\n"
        "if index: ready(); wait()\n"
        "others_are_ready(); os.kill(os.getppid(), signal.SIGINT)\n"
        "signal.sigwait({signal.SIGINT})\n"
        "os.kill(os.getppid(), signal.SIGINT); wait()"
    )
    assert code == 130
    assert said[-1] == "SIGINT again: the processes are killed."


def test_launch_runs_any_program(capfd):
    # The words behind `--` are not this program's options.
    options = ["--processes", "2", "--devices-per-process", "3", "--"]
    show = "print(os.environ['XLA_FLAGS'].split()[-1])"
    assert main(["launch", *options, *words(show)]) == 0
    flag = "--xla_force_host_platform_device_count=3"
    lines = capfd.readouterr().out.splitlines()
    assert sorted(lines) == [f"[{index}] {flag}" for index in range(2)]


def test_each_process_gets_gpus_of_its_own():
    given = environments(3, port=1, gpus_per_process=2)
    ids = [environment["JAX_LOCAL_DEVICE_IDS"] for environment in given]
    assert ids == ["0,1", "2,3", "4,5"]
    assert {environment.get("JAX_PLATFORMS") for environment in given} == {
        os.environ.get("JAX_PLATFORMS")
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "0", "--", "true"], "`--processes` must be"),
        (["--devices-per-process", "0", "--", "true"], "must be a whole"),
        (["--gpus-per-process", "0", "--", "true"], "`--gpus-per-process`"),
        (
            ["--gpus-per-process=1", "--devices-per-process=1", "--", "true"],
            "does not go with `--devices-per-process`",
        ),
        (["--port", "0", "--", "true"], "`--port` must be from 1"),
        (["--grace-seconds", "0", "--", "true"], "`--grace-seconds`"),
        (["--virtual-devices", "2", "--", "true"], "--devices-per-process"),
        (["--", "launch"], "runs another command"),
        (["--", "no-such-program"], "'no-such-program' .* -- train"),
    ],
)
def test_launch_refuses_what_cannot_be(capfd, arguments, message):
    assert main(["launch", *arguments]) == 1
    captured = capfd.readouterr()
    assert captured.out == ""
    assert re.search(message, captured.err)


def test_a_command_for_one_process_says_so(monkeypatch, capfd):
    monkeypatch.setenv(process_place.INDEX, "1")
    monkeypatch.setenv(process_place.COUNT, "2")
    assert main(["recommend", "model.keras", "1"]) == 1
    said = capfd.readouterr().err
    assert "`recommend` must run in one process" in said
