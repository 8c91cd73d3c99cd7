"""Compiled programs are kept for the next process, in bounds."""

import os

import jax
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval import cli
from keras_dp_retrieval._jax import compilation_cache

OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture
def unset():
    """JAX as in a new process; what the test sets is taken back."""
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_compilation_cache_max_size", -1)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.compilation_cache.reset_cache()


@pytest.fixture
def misses():
    found = []

    def listen(event, **_):
        if event == "/jax/compilation_cache/cache_misses":
            found.append(event)

    jax.monitoring.register_event_listener(listen)
    yield found
    jax.monitoring.unregister_event_listener(listen)


def compile_polynomial(coefficients):
    def polynomial(x):
        return sum(c * x**n for n, c in enumerate(coefficients))

    jax.clear_caches()  # As in a new process.
    return float(jax.jit(polynomial)(np.float32(2)))


def test_what_was_compiled_is_not_compiled_again(unset, misses, tmp_path):
    folder = kdr.compilation_cache(tmp_path / "new" / "folder")
    assert folder == tmp_path / "new" / "folder"
    first = compile_polynomial([1, 2, 3])
    assert len(misses) == 1
    assert compile_polynomial([1, 2, 3]) == first == 17
    assert len(misses) == 1
    compile_polynomial([3, 2, 1])
    assert len(misses) == 2


def test_the_folder_has_a_limit(unset, misses, tmp_path):
    def kept():
        return sum(file.stat().st_size for file in tmp_path.glob("*-cache"))

    compilation_cache.keep_in(tmp_path, 10**6)
    compile_polynomial([1, 2])
    of_one = kept()
    limit = of_one * 7 // 2
    compilation_cache.keep_in(tmp_path, limit)
    for number in range(8):
        compile_polynomial([number, 2])
    assert of_one < kept() <= limit
    compile_polynomial([7, 2])  # The latest is kept.
    assert len(misses) == 8  # [1, 2] is one of the eight.


def test_the_folder_that_jax_has_stays_in_use(unset, tmp_path):
    jax.config.update("jax_compilation_cache_dir", os.fspath(tmp_path / "own"))
    assert kdr.compilation_cache(tmp_path / "other") == tmp_path / "own"
    assert not (tmp_path / "other").exists()
    assert jax.config.jax_compilation_cache_max_size == -1


def test_a_limit_of_nothing_is_refused(unset, tmp_path):
    with pytest.raises(ValueError, match="`max_megabytes` must be"):
        kdr.compilation_cache(tmp_path, max_megabytes=0)


@pytest.mark.parametrize("command", ["train", "evaluate", "recommend"])
def test_commands_keep_theirs_in_the_folder_of_the_user(
    unset, monkeypatch, tmp_path, command, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.csv").touch()
    wrong = {
        "train": ["--interactions", "empty.csv"],
        "evaluate": ["absent.keras"],
        "recommend": ["absent.keras", "1"],
    }
    assert cli.main([command, *wrong[command]]) == 1
    file = wrong[command][command == "train"]
    assert file in capsys.readouterr().err
    used = tmp_path / "keras_dp_retrieval" / "compiled"
    assert jax.config.jax_compilation_cache_dir == os.fspath(used)
    assert used.is_dir()
