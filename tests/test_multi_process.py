"""Two processes of two devices each, on loopback, against one device."""

import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

PROGRAM = pathlib.Path(__file__).parent / "programs" / "train_tiny.py"


def start(
    output,
    *more,
    program=PROGRAM,
    port=0,
    num_processes=1,
    process_id=0,
    devices=1,
):
    arguments = [output, port, num_processes, process_id, devices, *more]
    return subprocess.Popen(
        [sys.executable, str(program), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(processes):
    try:
        for process in processes:
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    names = ["alone", "first", "second"]
    paths = [folder / f"{name}.npz" for name in names]
    port = free_port()
    finish([start(paths[0])])
    finish(
        [
            start(
                paths[1 + i],
                port=port,
                num_processes=2,
                process_id=i,
                devices=2,
            )
            for i in range(2)
        ]
    )
    return {
        name: dict(np.load(path))
        for name, path in zip(names, paths, strict=True)
    }


@pytest.mark.slow
def test_processes_agree_with_each_other(results):
    for name, value in results["first"].items():
        np.testing.assert_array_equal(value, results["second"][name], name)


@pytest.mark.slow
def test_two_processes_give_what_one_device_gives(results):
    for name, value in results["first"].items():
        expected = results["alone"][name]
        if value.dtype.kind == "i":
            np.testing.assert_array_equal(value, expected, name)
        else:
            np.testing.assert_allclose(value, expected, atol=1e-5)


def launched(program, *arguments, count=2, **options):
    """What each process printed, and the exit code of all."""
    command = [sys.executable, "-m", "keras_dp_retrieval", "launch"]
    command += ["--processes", str(count), "--devices-per-process", "1", "--"]
    done = subprocess.run(
        [*command, sys.executable, str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )
    lines = done.stdout.splitlines()
    outputs = [
        "\n".join(line[4:] for line in lines if line.startswith(f"[{index}] "))
        for index in range(count)
    ]
    return outputs, done.returncode


UNLIKE = PROGRAM.parent / "fit_unlike.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "differs"),
    [
        ("nothing", None),
        ("rows", "training rows"),
        ("last batch", "training rows"),
        ("contents", "training contents"),
        ("order", "training contents"),
        ("seed", "random seed"),
        ("steps", "steps per execution 2"),
        ("epochs", "epochs 2"),
        ("vocabulary", "ids"),
        ("features", "model's arguments"),
    ],
)
def test_processes_that_would_train_otherwise_are_refused_on_all(what, differs):
    outputs, _ = launched(UNLIKE, what)
    for output in outputs:
        if differs is None:
            assert "trained" in output
        else:
            assert "refused: All processes must train on" in output, output
            assert differs in output
            assert "process 0:" in output and "process 1:" in output


@pytest.mark.slow
def test_another_learning_rate_ends_all_and_says_what_differs():
    outputs, code = launched(UNLIKE, "learning rate")
    assert code == 1
    # `compile` makes its variable, so that JAX compares it before `fit` does.
    said = "\n".join(outputs)
    assert "not the same on each process" in said
    assert "Expected: [0.1 0.2]" in said
    assert "differ in a seed, a learning rate, the data or a file" in said


NEW_DAY = PROGRAM.parent / "new_day.py"


def two_with_a_new_day(paths, second=0):
    port = free_port()
    return [
        start(
            path,
            *([second] if number else []),
            program=NEW_DAY,
            port=port,
            num_processes=2,
            process_id=number,
            devices=2,
        )
        for number, path in enumerate(paths)
    ]


@pytest.mark.slow
def test_two_processes_go_on_with_a_new_day_as_one_device_does(tmp_path):
    paths = [tmp_path / f"{number}.npz" for number in range(3)]
    finish([start(paths[0], program=NEW_DAY)])
    finish(two_with_a_new_day(paths[1:]))
    alone, *both = (dict(np.load(path)) for path in paths)
    for name, expected in alone.items():
        np.testing.assert_array_equal(both[0][name], both[1][name], name)
        np.testing.assert_allclose(
            both[0][name], expected, atol=1e-5, err_msg=name
        )


@pytest.mark.slow
def test_processes_with_other_new_days_are_refused_before_they_grow(tmp_path):
    paths = [tmp_path / f"{number}.npz" for number in range(2)]
    processes = two_with_a_new_day(paths, second=1)
    try:
        for process in processes:
            output, _ = process.communicate(timeout=300)
            assert "refused with 31 users: All processes must" in output
            assert "process 1: new interactions" in output
    finally:
        for process in processes:
            process.kill()


FEATURES = PROGRAM.parent / "train_features.py"


@pytest.mark.slow
def test_two_processes_learn_from_features_what_one_device_does(tmp_path):
    paths = [tmp_path / f"{number}.npz" for number in range(3)]
    finish([start(paths[0], program=FEATURES)])
    processes = {"program": FEATURES, "port": free_port(), "num_processes": 2}
    finish(
        [
            start(path, process_id=number, devices=2, **processes)
            for number, path in enumerate(paths[1:])
        ]
    )
    alone, *both = (dict(np.load(path)) for path in paths)
    for name, expected in alone.items():
        np.testing.assert_array_equal(both[0][name], both[1][name], name)
        np.testing.assert_allclose(
            both[0][name], expected, atol=1e-5, err_msg=name
        )
