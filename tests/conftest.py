"""Eight virtual devices for every test, and the real data where there is any.

Several virtual devices on one CPU prove that results agree and say nothing
about speed.
"""

import os
import pathlib

os.environ.setdefault("KERAS_BACKEND", "jax")
# Compiling takes most of the tests' time; the level changes how well the
# machine code is optimized, not what it computes.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 "
    "--xla_backend_optimization_level=0",
)
# Twice as many threads as devices, or eight devices on two cores can wait for
# each other for ever (`_jax/devices.py` says why).
os.environ.setdefault("NPROC", "16")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import pytest

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def clean_keras_state():
    """No test sees another's distribution, names or random numbers."""
    keras.distribution.set_distribution(None)
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    yield
    keras.distribution.set_distribution(None)


@pytest.fixture(scope="session")
def data_dir():
    """A folder with `ml-100k` (the official files) and `tfds` (prepared)."""
    named = os.environ.get("KDR_DATA_DIR")
    folder = pathlib.Path(named or CHECKOUT.parent / "shared" / "data")
    if not (folder / "ml-100k" / "u.data").exists():
        pytest.skip(
            "MovieLens 100K is not here: its licence forbids shipping it. "
            "Point KDR_DATA_DIR at a folder that holds `ml-100k` and `tfds`."
        )
    return folder


@pytest.fixture
def on_devices():
    """`on_devices(n)` makes the first n virtual devices the distribution."""

    def use(num_devices):
        names = keras.distribution.list_devices()[:num_devices]
        distribution = keras.distribution.DataParallel(devices=names)
        keras.distribution.set_distribution(distribution)
        return distribution

    return use
