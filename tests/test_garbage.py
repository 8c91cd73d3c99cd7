"""Garbage collections are left out where there is no garbage."""

import gc
import subprocess
import sys

import pytest

from keras_dp_retrieval import _garbage
from keras_dp_retrieval.cli import entry


def test_collections_go_on_after_a_pause():
    with pytest.raises(ImportError), _garbage.paused():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()


def test_whoever_has_turned_them_off_finds_them_off():
    gc.disable()
    try:
        with _garbage.paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_only_a_process_of_its_own_is_frozen(monkeypatch):
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append("now"))
    monkeypatch.setattr(entry.atexit, "register", frozen.append)
    monkeypatch.setattr(sys, "argv", ["keras-dp-retrieval", "--version"])
    with pytest.raises(SystemExit):
        entry.main(["--version"])
    assert frozen == []
    with pytest.raises(SystemExit):
        entry.main()
    assert frozen == ["now", gc.freeze]


def test_only_a_frozen_heap_is_frozen_again(monkeypatch):
    calls, frozen = [], [0, 1000]
    monkeypatch.setattr(gc, "freeze", lambda: calls.append("now"))
    monkeypatch.setattr(gc, "get_freeze_count", lambda: frozen.pop(0))
    _garbage.freeze_more()
    assert calls == []
    _garbage.freeze_more()
    assert calls == ["now"]


@pytest.mark.slow
def test_a_command_that_saves_no_model_imports_no_tensorflow():
    program = (
        "import sys; from keras_dp_retrieval import cli;"
        "status = cli.main(['inspect', '--source', 'synthetic']);"
        "print('at the end', status, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith("at the end 0 False\n")
