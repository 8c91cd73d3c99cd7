"""Finding the devices."""

import os
import pathlib
import subprocess
import sys
import warnings

import jax
import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval import distribution
from keras_dp_retrieval._jax import devices


def test_all_devices_are_used_unless_some_are_named():
    everywhere = keras.distribution.list_devices()
    assert distribution.device_names() == everywhere
    mesh = kdr.data_parallel().device_mesh
    assert list(mesh.devices.flatten()) == everywhere
    assert distribution.num_devices() == len(everywhere)
    kdr.data_parallel(["cpu:1"])
    assert distribution.num_devices() == 1


def test_unknown_devices_are_named_beside_those_there_are():
    with pytest.raises(ValueError, match=r"tpu:9.*cpu:0"):
        kdr.data_parallel(["tpu:9"])


FLAGS = "--xla_a=b --xla_force_host_platform_device_count=300"


@pytest.mark.parametrize("started_by", ["us", "the user"])
@pytest.mark.parametrize(
    "given, seen",
    [(None, "900"), ("16", "900"), ("1000", "1000")],
)
def test_virtual_devices_get_three_threads_each(
    monkeypatch, given, seen, started_by
):
    """Else they wait for each other for ever on a CPU of few cores."""
    monkeypatch.setenv("XLA_FLAGS", FLAGS)
    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    if given:
        monkeypatch.setenv("PJRT_NPROC", given)
    monkeypatch.setattr(devices, "_pool", devices._Pool())
    monkeypatch.setattr(devices, "has_started", lambda: False)
    during = []
    names = jax.devices()

    def start():
        during.append(os.environ.get("PJRT_NPROC"))
        return names

    monkeypatch.setattr(jax, "devices", start)
    if started_by == "the user":
        distribution.reserve_threads()  # What our import does.
        assert during == []  # It starts nothing.
        jax.devices()
    assert len(distribution.device_names()) == len(names)
    assert set(during) == {seen}
    # Programs that are started from here have their own number.
    assert os.environ.get("PJRT_NPROC") == given


@pytest.mark.parametrize("threads, warns", [("15", True), ("16", False)])
def test_devices_that_started_with_too_few_threads_are_warned_of_once(
    monkeypatch, on_devices, threads, warns
):
    on_devices(8)
    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.setenv("PJRT_NPROC", threads)
    monkeypatch.setattr(devices, "_pool", devices._Pool())
    monkeypatch.setattr(distribution, "_warned_of_threads", [])
    model = kdr.TwoTowerRetrieval(9, 9, 2)
    model.compile("sgd")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            model.predict(np.arange(8), verbose=0)
    texts = [str(w.message) for w in caught if "XLA may stop" in str(w.message)]
    assert len(texts) == warns
    if warns:
        assert "8 virtual devices share 15 threads and need 16" in texts[0]
        assert 'os.environ["PJRT_NPROC"] = "24"' in texts[0]


PROGRAM = pathlib.Path(__file__).parent / "programs" / "train_by_hand.py"


@pytest.mark.slow
def test_a_distribution_set_by_hand_ends_no_process():
    """It did in 3 of 7 runs; the program says how to run more of them."""
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, str(PROGRAM), "after", "10"],
            capture_output=True,
            text=True,
            env={k: v for k, v in os.environ.items() if "NPROC" not in k},
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("num_rows", [8, 9])
def test_processes_without_a_common_mesh_share_every_row(monkeypatch, num_rows):
    """Three processes, no distribution: 8 rows made 2 and 2 and 2."""
    monkeypatch.setattr(distribution, "process_count", lambda: 3)
    padded = distribution.round_up(num_rows, distribution.row_multiple())
    fed = []
    for process in range(3):
        monkeypatch.setattr(distribution, "process_index", lambda p=process: p)
        fed.extend(np.arange(padded)[distribution.process_rows(padded)])
    assert fed == list(range(9))
    with pytest.raises(ValueError, match=r"num_rows=8 with 3 .* Use 9\."):
        distribution.process_rows(8)
