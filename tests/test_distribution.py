"""Finding the devices."""

import os

import jax
import keras
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval import distribution


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


@pytest.mark.parametrize(
    "given, seen", [(None, "600"), ("16", "600"), ("1000", "1000")]
)
def test_virtual_devices_get_two_threads_each(monkeypatch, given, seen):
    """Else they wait for each other for ever on a CPU of few cores."""
    flags = "--xla_a=b --xla_force_host_platform_device_count=300"
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.delenv("NPROC")
    if given:
        monkeypatch.setenv("NPROC", given)
    during = []
    devices = jax.devices()

    def start():
        during.append(os.environ.get("NPROC"))
        return devices

    monkeypatch.setattr(jax, "devices", start)
    assert len(distribution.device_names()) == len(devices)
    assert during == [seen]
    assert os.environ.get("NPROC") == given
