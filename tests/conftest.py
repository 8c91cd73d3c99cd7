"""Eight virtual devices for every test, and the real data where there is any.

Several virtual devices on one CPU prove that results agree and say nothing
about speed.
"""

import gc
import importlib.metadata
import os
import pathlib
import shutil
import tempfile

os.environ.setdefault("KERAS_BACKEND", "jax")
# Compiling takes most of the tests' time. These change how long that takes and
# how well the machine code is optimized, not what it computes: no optimization,
# and all of a small program compiled at once rather than in parts.
FLAGS = [
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",
]
# The older of XLA's two ways to compile a fusion takes half as long. Later
# releases have only the other, and end the process where they are given this.
HAS_OLD_FUSIONS = importlib.metadata.version("jaxlib").startswith("0.10.")
if HAS_OLD_FUSIONS:
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
# Twice as many threads as devices, or eight devices on two cores can wait for
# each other for ever (`_jax/devices.py` says why).
os.environ.setdefault("NPROC", "16")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# One compilation cache for the run: the workers and the programs that tests
# start inherit it, so that a program of one shape is compiled once. Whoever
# makes the folder removes it.
OWN_CACHE = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    OWN_CACHE = tempfile.mkdtemp(prefix="keras_dp_retrieval_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = OWN_CACHE
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import keras
import pytest
from jax.experimental.compilation_cache import compilation_cache

if "MUTANT_UNDER_TEST" in os.environ:
    from tests.mutants import keep_signatures

    keep_signatures()

# These use data that the package advises against, for other purposes: all of
# it a few random rows, or a split that is quick to make.
ADVISED_AGAINST = (
    "test_agreement test_cli test_end_to_end test_export test_finite "
    "test_known_data test_metrics test_new_interactions test_padded_batches "
    "test_public_api test_readme test_recipe test_resume test_saving "
    "test_shared_steps "
    "test_towers "
    "test_tuning"
).split()
ADVICE = [
    r"[\d,]+ of [\d,]+ test interactions are also in the train part",
    r"\d+% of the test interactions are older than the newest one learned",
    r"[\d,]+ users with fewer than 3 interactions are in the train part",
    "Validation and test are the same rows",
]

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items):
    for item in items:
        if item.module.__name__.rpartition(".")[2] in ADVISED_AGAINST:
            for message in ADVICE:
                advice = f"ignore:{message}:UserWarning"
                item.add_marker(pytest.mark.filterwarnings(advice))


def pytest_collection_finish():
    # What the imports made stays. Without it a garbage collection looks
    # through a few hundred objects, not through those of TensorFlow and JAX.
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    if OWN_CACHE:
        shutil.rmtree(OWN_CACHE, ignore_errors=True)


@pytest.fixture(autouse=True)
def clean_keras_state():
    """No test sees another's distribution, names or random numbers."""
    keras.distribution.set_distribution(None)
    # A collection for every test would take a third of the tests' time.
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    yield
    keras.distribution.set_distribution(None)


@pytest.fixture
def no_compilation_cache():
    """For tests of compilation itself: JAX compiles as in a first run."""
    folder = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()  # JAX looks at the folder once.
    yield
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()


@pytest.fixture
def compiler_options():
    """For tests that read a compiled program: fusions as users get them."""
    return {"xla_cpu_use_fusion_emitters": True} if HAS_OLD_FUSIONS else None


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
