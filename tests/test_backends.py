"""What works on the backends that do not train."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

PROGRAM = pathlib.Path(__file__).parent / "programs" / "without_jax.py"


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
@pytest.mark.slow
def test_all_but_training_works_without_jax(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    done = subprocess.run(
        [sys.executable, PROGRAM],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "KERAS_BACKEND": backend},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"All well on {backend}."
