"""TensorBoard's own web page shows the callback's scalars."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import keras
import numpy as np
import pytest

from keras_dp_retrieval.callbacks import DistributionAwareCallback

TAGS = (
    "throughput/examples_per_second",
    "device_finish_lag_seconds/cpu_0",
    "device_examples_per_second/cpu_1",
)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for_page(address, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            return urllib.request.urlopen(address, timeout=5).read()
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    raise TimeoutError(f"no page at {address} within {seconds} s")


def browse(chromium, profile, address, *what):
    """Opens a page in a browser without a window and returns its output."""
    return subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            f"--user-data-dir={profile}",
            "--window-size=1500,1400",
            "--virtual-time-budget=30000",
            *what,
            address,
        ],
        capture_output=True,
        text=True,
        timeout=150,
    )


@pytest.mark.slow
def test_the_web_page_shows_the_scalars_of_every_device(tmp_path, on_devices):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs a browser: apt-get install chromium")
    pytest.importorskip("tensorboard")
    on_devices(2)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(
        np.ones((64, 3)),
        np.ones((64, 1)),
        batch_size=8,
        epochs=6,
        verbose=0,
        callbacks=[DistributionAwareCallback(tmp_path / "run")],
    )
    port = free_port()
    address = f"http://127.0.0.1:{port}/?darkMode=false#timeseries"
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "tensorboard.main"),
            *("--logdir", tmp_path, "--load_fast=false"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_page(f"http://127.0.0.1:{port}/", 90)
        time.sleep(3)  # It reads the folder after it answers.
        page = browse(chromium, tmp_path / "a", address, "--dump-dom").stdout
        picture = tmp_path / "page.png"
        browse(chromium, tmp_path / "b", address, f"--screenshot={picture}")
    finally:
        server.kill()
        server.wait()
    for tag in TAGS:
        assert tag.split("/")[0] in page
    assert picture.stat().st_size > 10_000
