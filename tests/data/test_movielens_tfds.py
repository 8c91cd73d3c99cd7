"""MovieLens from TensorFlow Datasets: what is missing has a clear error."""

import time

import pytest

from keras_dp_retrieval.data import movielens_tfds


def test_tfds_is_prepared_where_both_parts_are_complete(tmp_path):
    assert not movielens_tfds.tfds_is_prepared("100k", tmp_path)
    for part in ("ratings", "movies"):
        folder = tmp_path / "movielens" / f"100k-{part}" / "0.1.1"
        folder.mkdir(parents=True)
        assert not movielens_tfds.tfds_is_prepared("100k", tmp_path)
        (folder / "dataset_info.json").touch()
    assert movielens_tfds.tfds_is_prepared("100k", tmp_path)
    assert not movielens_tfds.tfds_is_prepared("1m", tmp_path)


def test_a_damaged_copy_of_tfds_names_the_remedy(tmp_path):
    for part in ("ratings", "movies"):
        folder = tmp_path / "movielens" / f"100k-{part}" / "0.1.1"
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text("{")
    with pytest.raises(RuntimeError, match="Delete it and prepare it again"):
        movielens_tfds.read_tfds("100k", tmp_path)


def test_tfds_looks_in_its_own_folder_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert movielens_tfds.tfds_folder("100k") == tmp_path


def test_no_network_is_a_short_error_and_never_other_data(
    tmp_path, monkeypatch
):
    def no_network(request, timeout):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(RuntimeError, match="no route") as raised:
        movielens_tfds.read_tfds("100k", tmp_path)
    for remedy in ("data_dir=", "source='files'", "source='synthetic'"):
        assert remedy in str(raised.value)
    assert len(str(raised.value)) < 600


def test_a_host_that_never_answers_is_given_up(tmp_path, monkeypatch):
    import threading

    release = threading.Event()

    def hang(request, timeout):
        release.wait(60)  # As looking up a name can, whatever the timeout.

    monkeypatch.setattr("urllib.request.urlopen", hang)
    monkeypatch.setattr(movielens_tfds, "_PROBE_SECONDS", 0.05)
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="no answer within"):
        movielens_tfds.read_tfds("100k", tmp_path)
    assert time.monotonic() - started < 20
    release.set()
