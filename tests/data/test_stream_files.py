"""Sources that can be read once, as data sets that are read in any order."""

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval.data._tensorflow import import_tensorflow
from keras_dp_retrieval.data.streaming import stream_files

NUM_ROWS = 500
OPTIONS = {"timestamp_column": "timestamp", "batch_size": 16}


def columns_of(names=False):
    rng = np.random.default_rng(0)
    users = rng.integers(5, 60, NUM_ROWS)
    return {
        "user_id": np.array([f"ü{u}" for u in users]) if names else users,
        "candidate_id": rng.integers(0, 40, NUM_ROWS),
        "timestamp": rng.permutation(NUM_ROWS),
    }


def batches_of(columns, size=33):
    for start in range(0, NUM_ROWS, size):
        yield {name: c[start : start + size] for name, c in columns.items()}


class Batches(keras.utils.PyDataset):
    def __init__(self, columns):
        super().__init__()
        self._batches = list(batches_of(columns))

    def __len__(self):
        return len(self._batches)

    def __getitem__(self, index):
        return self._batches[index]


def source_of(kind, columns):
    if kind == "tf.data":
        tf = import_tensorflow()
        return tf.data.Dataset.from_tensor_slices(columns).batch(33)
    if kind == "PyDataset":
        return Batches(columns)
    if kind == "Grain":
        grain = pytest.importorskip("grain")
        return grain.MapDataset.source(list(batches_of(columns)))
    return batches_of(columns)


@pytest.mark.parametrize("names", [False, True])
@pytest.mark.parametrize("kind", ["tf.data", "PyDataset", "Grain", "generator"])
def test_any_source_is_streamed(tmp_path, kind, names, monkeypatch):
    monkeypatch.setattr(stream_files, "_ROWS_A_GROUP", 50)
    columns = columns_of(names)
    folder = tmp_path / "new" / "d"
    data = kdr.RetrievalDataset.from_stream(
        source_of(kind, columns), folder, **OPTIONS
    )
    whole = kdr.RetrievalDataset.from_interactions(
        columns["user_id"],
        columns["candidate_id"],
        timestamps=columns["timestamp"],
        split="by_time",
        test_fraction=0.0,
    )
    assert len(data._files.blocks) > 5
    for part in ("train", "validation", "test"):
        assert data.num_rows(part) == {"train": 360, "test": 100}.get(part, 40)
    np.testing.assert_array_equal(
        data.user_vocabulary.ids, whole.user_vocabulary.ids
    )
    counts = sum(
        data.candidate_counts(part) for part in ("train", "validation", "test")
    )
    np.testing.assert_array_equal(
        counts[1:], np.unique(columns["candidate_id"], return_counts=True)[1]
    )
    again = kdr.RetrievalDataset.from_parquet(folder, streaming=True, **OPTIONS)
    assert again.fingerprint == data.fingerprint
    with pytest.raises(ValueError, match=r"`folder` must be new or empty"):
        kdr.RetrievalDataset.from_stream([], folder)


def failing():
    yield from list(batches_of(columns_of()))[:3]
    raise OSError("The tape broke.")


def endless():
    return import_tensorflow().data.Dataset.from_tensors({"a": [1]}).repeat()


def changing():
    first, *_ = batches_of(columns_of())
    yield first
    yield {**first, "user_id": first["user_id"].astype(str)}


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (failing, OSError, r"The tape broke"),
        (endless, ValueError, r"`source` must end.*repeats for ever"),
        (changing, ValueError, r"the same columns.*'user_id': 'string'"),
        (lambda: [], ValueError, r"must have rows"),
        (lambda: 5, ValueError, r"`source` must be a `tf\.data"),
        (lambda: [([1], [2])], ValueError, r"dicts of columns.*element 0"),
        (lambda: [{"a": 1}], ValueError, r"`source\.batch\(10_000\)`"),
        (lambda: [{"a": [[1, 2]]}], ValueError, r"'a' of shape \(1, 2\)"),
        (lambda: [{"a": [1], "b": [1, 2]}], ValueError, r"'a': 1, 'b': 2"),
    ],
)
def test_a_source_that_fails_leaves_nothing(tmp_path, source, error, message):
    with pytest.raises(error, match=message):
        kdr.RetrievalDataset.from_stream(source(), tmp_path / "d", **OPTIONS)
    assert not list(tmp_path.iterdir())
