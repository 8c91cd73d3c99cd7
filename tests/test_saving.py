"""One file that holds everything, and that is never half there."""

import io
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import warnings
import zipfile

import h5py
import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval import cli
from keras_dp_retrieval.data.vocabulary import Vocabulary
from keras_dp_retrieval.model import saving
from keras_dp_retrieval.model.file_checks import MEMBERS
from keras_dp_retrieval.model.whole_files import renamed_when_whole

HERE = pathlib.Path(__file__).parent
FIXTURE = HERE / "fixtures" / "format_1.keras"
NEWEST = FIXTURE.with_stem(f"format_{saving.FORMAT_VERSION}")
USER_IDS = [2**40, -7, 12, 3]
MOVIE_IDS = ["b", "a|c", "é", "d", "e", "f"]


def interactions():
    rng = np.random.default_rng(0)
    users, movies = rng.integers(0, 4, 40), rng.integers(0, 6, 40)
    return kdr.RetrievalDataset.from_interactions(
        np.array(USER_IDS)[users],
        np.array(MOVIE_IDS)[movies],
        split="random",
        batch_size=8,
        seed=0,
        candidate_key="movie_id",
    )


def rows(num_rows=37):
    rng = np.random.default_rng(1)
    return rng.integers(1, 5, num_rows), {
        "movie_id": rng.integers(1, 7, num_rows),
        "rating": rng.random(num_rows).astype("float32"),
    }


def trained_model(optimizer="adagrad", **kwargs):
    keras.utils.set_random_seed(1)
    model = kdr.TwoTowerRetrieval.for_dataset(interactions(), 4, **kwargs)
    model.compile(keras.optimizers.get(optimizer))
    train(model)
    return model


def train(model):
    return model.fit(
        *rows(), batch_size=8, epochs=2, shuffle=False, verbose=0
    ).history["loss"]


def all_values(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def assert_same_answers(one, other, **tolerance):
    for exclude_seen in (True, False):
        first, second = (
            model.recommend(USER_IDS, k=6, exclude_seen=exclude_seen)
            for model in (one, other)
        )
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_allclose(first[1], second[1], **tolerance)


# What comes back


def test_the_file_holds_everything(tmp_path):
    model = trained_model()
    model.candidate_titles = {"b": "Bé", "d": "D"}
    model.save(tmp_path / "m.keras")
    reloaded = keras.saving.load_model(tmp_path / "m.keras", safe_mode=True)
    assert_same_answers(model, reloaded, rtol=0)
    assert reloaded.candidate_titles == model.candidate_titles
    for name in ("user_vocabulary", "candidate_vocabulary"):
        before, after = getattr(model, name).ids, getattr(reloaded, name).ids
        np.testing.assert_array_equal(before, after)
        assert before.dtype == after.dtype
    assert np.sum(model.candidate_counts) == 2 * 37
    for before, after in zip(
        all_values(model), all_values(reloaded), strict=True
    ):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("candidate_dtype", ["float32", "bfloat16", "int8"])
def test_the_file_holds_the_candidate_index(tmp_path, candidate_dtype):
    model = trained_model()
    without = model.recommend(USER_IDS, k=5)
    assert model.candidate_index is None
    index = model.build_index(candidate_dtype=candidate_dtype, chunk_size=3)
    assert model.candidate_index is index
    expected = model.recommend(USER_IDS, k=5)
    if candidate_dtype == "float32":
        np.testing.assert_array_equal(expected[0], without[0])
        np.testing.assert_allclose(expected[1], without[1], rtol=1e-6)
    model.save(tmp_path / "m.keras")
    loaded = kdr.TwoTowerRetrieval.load(tmp_path / "m.keras")
    assert loaded.candidate_index.get_config() == index.get_config()
    np.testing.assert_array_equal(
        loaded.candidate_index.ids(), sorted(MOVIE_IDS)
    )
    np.testing.assert_array_equal(
        loaded.candidate_index.vectors(), index.vectors()
    )
    for got, value in zip(
        loaded.recommend(USER_IDS, k=5), expected, strict=True
    ):
        np.testing.assert_array_equal(got, value)


def test_the_index_is_in_the_file_once(tmp_path):
    model = trained_model()
    model.build_index()
    for save in (model.save, lambda path: keras.saving.save_model(model, path)):
        save(tmp_path / "m.keras")
        with zipfile.ZipFile(tmp_path / "m.keras") as archive:
            assert "assets/index.npz" in archive.namelist()
            archive.extract("model.weights.h5", tmp_path)
        found = []
        with h5py.File(tmp_path / "model.weights.h5") as weights:
            weights.visit(found.append)
        assert found and not [name for name in found if "index" in name]
        # And what is in it is what is searched.
        loaded = keras.saving.load_model(tmp_path / "m.keras")
        assert_same_answers(loaded, model, rtol=0)


def test_recommend_searches_the_index_and_leaves_out_what_was_had():
    model = trained_model()
    model.build_index()
    data = interactions()
    ids, _ = model.recommend(USER_IDS, k=6)
    for row, answer in zip(
        data.user_vocabulary.rows(USER_IDS), ids, strict=True
    ):
        start, end = data.seen.indptr[row : row + 2]
        had = data.candidate_vocabulary.raw_ids(
            data.seen.candidate_rows[start:end]
        )
        assert len(had)
        assert set(answer) == set(MOVIE_IDS) - set(had) | {""}
    # What it answers comes out of the index, and not out of the towers.
    candidates = model.candidate_index
    candidates.assign(MOVIE_IDS[:2], candidates.vectors()[:2])
    ids, _ = model.recommend(USER_IDS, k=2, exclude_seen=False)
    assert (np.sort(ids) == MOVIE_IDS[1::-1]).all()


@pytest.mark.parametrize(
    "change",
    [
        train,
        lambda model: model.train_on_batch(*rows(8)),
        lambda model: model.set_weights(model.get_weights()),
        lambda model: model.add_candidates(["new"]),
    ],
)
def test_an_index_goes_when_the_candidates_change(change):
    model = trained_model()
    model.build_index()
    change(model)
    assert model.candidate_index is None


def test_integer_ids_without_titles_and_models_without_ids(tmp_path):
    model = trained_model()
    model.user_vocabulary = None
    model.candidate_vocabulary = Vocabulary(np.array([9, 4, 2**50, 1, 5, 0]))
    model.save(tmp_path / "m.keras")
    reloaded = keras.saving.load_model(tmp_path / "m.keras")
    assert reloaded.user_vocabulary is None
    np.testing.assert_array_equal(
        reloaded.retrievable_ids(), [9, 4, 2**50, 1, 5, 0]
    )
    assert reloaded.candidate_titles == {}


def test_nothing_in_the_file_is_pickled(tmp_path):
    trained_model().save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path)
    assert {pathlib.Path(name).suffix for name in names} <= {
        ".json",
        ".h5",
        ".npz",
    }
    for path in (tmp_path / "assets").glob("*.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            assert all(arrays[name].dtype.kind in "iuU" for name in arrays)


def test_a_model_that_was_never_trained_or_compiled_is_saved(tmp_path, recwarn):
    for compiled in (False, True):
        model = kdr.TwoTowerRetrieval.for_dataset(interactions(), 4)
        if compiled:
            model.compile("adam")
        model.save(tmp_path / "m.keras")
        reloaded = keras.saving.load_model(tmp_path / "m.keras")
        assert_same_answers(model, reloaded, rtol=0)
    assert not [w for w in recwarn if "not yet been" in str(w.message)]
    assert not [w for w in recwarn if "Skipping" in str(w.message)]


@pytest.mark.parametrize(
    ("objective", "optimizer"),
    [
        ("rating", "adamw"),
        ("in_batch_softmax", "adagrad"),
        pytest.param("rating", "adagrad", marks=pytest.mark.slow),
        pytest.param("in_batch_softmax", "adamw", marks=pytest.mark.slow),
    ],
)
def test_training_goes_on_as_if_it_had_never_stopped(
    tmp_path, optimizer, objective
):
    model = trained_model(optimizer, objective=objective)
    model.save(tmp_path / "m.keras")
    reloaded = keras.saving.load_model(tmp_path / "m.keras")
    assert train(model) == train(reloaded)
    assert_same_answers(model, reloaded, rtol=0)


def test_dropout_goes_on_with_the_numbers_that_come_next(tmp_path):
    tower = keras.Sequential(
        [kdr.RowEmbedding(5, 4), keras.layers.Dropout(0.5)]
    )
    model = trained_model(user_tower=tower, objective="rating")
    model.save(tmp_path / "m.keras")
    reloaded = keras.saving.load_model(tmp_path / "m.keras")
    assert train(model) == train(reloaded)


# Saved on x devices, loaded on y


@pytest.fixture(scope="module")
def saved_on(tmp_path_factory):
    """Files by number of devices, and how training continues on one device."""
    folder, weights = tmp_path_factory.mktemp("saved_on"), {}
    names = keras.distribution.list_devices()
    for count in (8, 4, 2, 1):
        keras.utils.clear_session(free_memory=False)
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(devices=names[:count])
        )
        model = trained_model("adamw")
        model.save(folder / f"{count}.keras")
        weights[count] = all_values(model)
    keras.distribution.set_distribution(None)
    return folder, weights, train(model), model.recommend(USER_IDS, k=6)


@pytest.mark.parametrize(
    "here",
    [
        1,
        pytest.param(2, marks=pytest.mark.slow),
        pytest.param(4, marks=pytest.mark.slow),
        8,
    ],
)
def test_any_number_of_devices_loads_what_any_saved(saved_on, on_devices, here):
    folder, weights, loss, answers = saved_on
    on_devices(here)
    for there in (1, 2, 4, 8):
        model = keras.saving.load_model(folder / f"{there}.keras")
        for value, saved in zip(all_values(model), weights[there], strict=True):
            np.testing.assert_array_equal(value, saved)
    np.testing.assert_allclose(train(model), loss, rtol=1e-5)
    ids, scores = model.recommend(USER_IDS, k=6)
    np.testing.assert_array_equal(ids, answers[0])
    np.testing.assert_allclose(scores, answers[1], atol=1e-5)


def run(program, *arguments):
    return subprocess.Popen(
        [sys.executable, HERE / "programs" / program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # The package under test, whatever is installed.
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    )


def outputs(processes):
    try:
        return [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
def test_two_processes_load_it_go_on_and_save_it_together(saved_on, tmp_path):
    folder, _, loss, answers = saved_on
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    path = tmp_path / "m.keras"
    processes = [
        run("train_and_save.py", folder / "8.keras", path, port, 2, index)
        for index in range(2)
    ]
    said = outputs(processes)
    assert [process.returncode for process in processes] == [0, 0], said
    for text in said:
        last = json.loads(text.strip().splitlines()[-1])
        np.testing.assert_allclose(last["loss"], loss, rtol=1e-5)
        # A save that fails in process 0 fails in the other one as well.
        failure = last["error"]
        if text is said[0]:  # Which of the two it is, the system decides.
            assert failure in ("FileNotFoundError", "NotADirectoryError")
        else:
            assert failure == "RuntimeError"
    ids, scores = keras.saving.load_model(path).recommend(USER_IDS, k=6)
    np.testing.assert_array_equal(ids, answers[0])
    np.testing.assert_allclose(scores, answers[1], atol=1e-5)
    assert os.listdir(tmp_path) == ["m.keras"]


# Never half a file


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["half_written", "before_renaming"])
def test_a_save_that_is_killed_leaves_the_old_file(tmp_path, moment):
    path = tmp_path / "m.keras"
    model = trained_model()
    model.save(path)
    before = path.read_bytes()
    process = run("killed_save.py", path, moment)
    (said,) = outputs([process])
    assert process.returncode == -9, said
    assert path.read_bytes() == before
    leftovers = [name for name in os.listdir(tmp_path) if name != "m.keras"]
    assert len(leftovers) == 1 and leftovers[0].endswith(".tmp.keras")
    neighbour = tmp_path / ".m2.0123456789ab.tmp.keras"
    neighbour.write_text("of another file")
    model.save(path)
    assert_same_answers(model, kdr.TwoTowerRetrieval.load(path), rtol=0)
    assert set(os.listdir(tmp_path)) == {"m.keras", neighbour.name}


@pytest.mark.slow
def test_twenty_kills_at_any_moment_leave_a_whole_file(tmp_path):
    path = tmp_path / "m.keras"
    model = trained_model()
    model.save(path)
    first = model.candidate_tower.get_weights()[0]
    moments = np.random.default_rng(0).uniform(0, 0.3, 20)
    for number, moment in enumerate(moments):
        process = run("killed_save.py", path, "from_outside")
        try:
            assert process.stdout.readline().strip() == "saving"
            time.sleep(moment)  # What is tested is that any moment will do.
        finally:
            process.kill()
            process.communicate()
        # The old file or the new one, each of which is 1 more.
        loaded = kdr.TwoTowerRetrieval.load(path)
        more = loaded.candidate_tower.get_weights()[0] - first
        np.testing.assert_allclose(more, np.round(more[0, 0]), atol=1e-4)
        model.save(path)
        assert os.listdir(tmp_path) == ["m.keras"], number


def test_a_file_that_another_process_writes_is_left_alone(tmp_path):
    path = tmp_path / "m.keras"
    with renamed_when_whole(path) as temporary:
        with renamed_when_whole(path) as other:
            other.write_text("quick")
            assert temporary.exists()
        temporary.write_text("slow")
    assert path.read_text() == "slow"
    assert os.listdir(tmp_path) == ["m.keras"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_an_overwritten_file_keeps_its_permissions(tmp_path):
    path, model = tmp_path / "m.keras", trained_model()
    (tmp_path / "new").touch()
    usual = (tmp_path / "new").stat().st_mode & 0o777
    model.save(path)
    assert path.stat().st_mode & 0o777 == usual
    for mode in (0o600, 0o660):
        path.chmod(mode)
        model.save(path)
        assert path.stat().st_mode & 0o777 == mode


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch
):
    path = tmp_path / "m.keras"
    model = trained_model()
    model.save(path)
    before = path.read_bytes()

    def full_disk(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="No space"):
        model.save(path)
    assert os.listdir(tmp_path) == ["m.keras"]
    assert path.read_bytes() == before


def test_checkpoints_are_renamed_when_whole_too(tmp_path, monkeypatch):
    replaced = []
    replace = os.replace

    def note(source, target):
        replaced.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    path = tmp_path / "m.keras"
    model = trained_model()
    model.fit(
        *rows(), verbose=0, callbacks=[keras.callbacks.ModelCheckpoint(path)]
    )
    assert replaced == [path]
    assert_same_answers(model, keras.saving.load_model(path), rtol=0)


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "m.keras"
    target.write_text("old")
    os.symlink(target, tmp_path / "m.keras")
    trained_model().save(tmp_path / "m.keras")
    assert (tmp_path / "m.keras").is_symlink()
    assert zipfile.is_zipfile(target)


def test_it_asks_before_it_replaces_where_it_must_not_overwrite(
    tmp_path, monkeypatch
):
    path = tmp_path / "m.keras"
    path.write_text("old")
    model = trained_model()
    monkeypatch.setattr("builtins.input", lambda _: "n")
    model.save(path, overwrite=False)
    assert path.read_text() == "old"
    monkeypatch.setattr("builtins.input", lambda _: "y")
    model.save(path, overwrite=False)
    assert zipfile.is_zipfile(path)


def test_what_is_no_keras_file_is_left_to_keras(tmp_path):
    model = trained_model()
    model.save(tmp_path / "folder", zipped=False)
    reloaded = keras.saving.load_model(tmp_path / "folder")
    assert_same_answers(model, reloaded, rtol=0)
    with pytest.raises(ValueError, match="Invalid filepath extension"):
        model.save(tmp_path / "m.txt")
    with pytest.raises(ValueError, match=r"`\.keras` files.*'.*m\.h5'"):
        model.save(tmp_path / "m.h5")
    assert not (tmp_path / "m.h5").exists()


# Files that are not what they should be


def edited(path, target, edit, compression=zipfile.ZIP_STORED):
    """Copies a file; `edit` gets a dict of its members to change."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    edit(members)
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def newer_format(members):
    text = members["config.json"].decode()
    assert '"format_version": 1' in text
    members["config.json"] = text.replace(
        '"format_version": 1', '"format_version": 7'
    ).encode()


def ids_too_many(members):
    with open_for_arrays(members, "assets/ids.npz") as arrays:
        arrays["user_ids"] = np.arange(99)


def repeated_ids(members):
    with open_for_arrays(members, "assets/ids.npz") as arrays:
        arrays["candidate_ids"] = np.array(["a", "b", "a"])


def pickled_ids(members):
    with open_for_arrays(members, "assets/ids.npz") as arrays:
        arrays["user_ids"] = np.array([1, "a", None], object)


class open_for_arrays:
    def __init__(self, members, name):
        self.members, self.name = members, name

    def __enter__(self):
        import io

        with np.load(io.BytesIO(self.members[self.name])) as arrays:
            self.arrays = dict(arrays)
        return self.arrays

    def __exit__(self, *error):
        import io

        stream = io.BytesIO()
        np.savez(stream, **self.arrays)
        self.members[self.name] = stream.getvalue()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (newer_format, "the format 7. .* reads formats up to 6: install"),
        (ids_too_many, "ids of the users do not fit .* 99 for 5 rows"),
        (repeated_ids, "must be distinct"),
        (pickled_ids, "allow_pickle=False"),
    ],
)
def test_a_wrong_file_is_one_clear_error(tmp_path, edit, message):
    path = tmp_path / "wrong.keras"
    edited(FIXTURE, path, edit)
    with pytest.raises(ValueError, match=message):
        keras.saving.load_model(path)
    with pytest.raises(ValueError, match=rf"wrong\.keras'.*(?s:.)*{message}"):
        kdr.TwoTowerRetrieval.load(path)


# What is crafted to harm


def size_edited(name, old, new):
    def edit(members):
        text = members["config.json"].decode()
        assert f'"{name}": {old}' in text
        text = text.replace(f'"{name}": {old}', f'"{name}": {new}')
        members["config.json"] = text.encode()

    return edit


def weights_edited(change):
    """An edit of the arrays in the weights; `change` gets the HDF5 file."""

    def edit(members):
        stream = io.BytesIO(members["model.weights.h5"])
        with h5py.File(stream, "r+") as weights:
            change(weights)
        members["model.weights.h5"] = stream.getvalue()

    return edit


def put(name, values):
    def change(weights):
        del weights[name]
        weights[name] = values

    return weights_edited(change)


def set_one(name, index, value):
    def change(weights):
        weights[name][index] = value

    return weights_edited(change)


TABLE = "candidate_tower/vars/0"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_one(TABLE, (2, 1), np.nan), "finite.* 1 of the 28 numbers"),
        (set_one("optimizer/vars/2", 0, np.inf), "Weights must be finite"),
        (set_one("vars/0", 3, -1), "counts` must be 0 or more"),
        (set_one("histories/vars/0", 2, 30), "histories are damaged"),
        (set_one("histories/vars/0", 0, -2), "histories are damaged"),
        (set_one("histories/vars/1", 0, 7), "rows from 0 to 6 .*: 1 to 7|0 to"),
        (set_one("histories/vars/1", 0, -1), "rows from 0 to 6 .*: -1"),
        (put(TABLE, np.zeros((3, 4), "float32")), "candidate_embedding"),
        (size_edited("input_dim", 7, 10**17), "asks for weights of 400,"),
        (size_edited("input_dim", 7, 2 * 10**9), "asks for weights of 8,"),
        (size_edited("num_users", 5, 10**9), "asks for weights of 1,"),
        (size_edited("num_users", 5, '"five"'), "whole number"),
        (size_edited("input_dim", 7, 6), "6 rows"),
    ],
)
def test_a_crafted_file_is_refused(tmp_path, edit, message):
    path = tmp_path / "crafted.keras"
    edited(NEWEST, path, edit)
    with pytest.raises(ValueError, match=rf"(?s)crafted\.keras'.*({message})"):
        kdr.TwoTowerRetrieval.load(path)


def spaces_in_config(members):
    members["config.json"] += b" " * 2**27


def huge_array(members):
    stream = io.BytesIO()
    header = {"descr": "<i8", "fortran_order": False, "shape": (10**14,)}
    np.lib.format.write_array_header_1_0(stream, header)
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("user_ids.npy", stream.getvalue())
    members["assets/ids.npz"] = inner.getvalue()


def bomb_in_array(members):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("user_ids.npy", bytes(2**27))
    members["assets/ids.npz"] = inner.getvalue()


@pytest.mark.parametrize(
    ("edit", "compression", "message"),
    [
        (spaces_in_config, zipfile.ZIP_DEFLATED, "would unpack to 134,"),
        (bomb_in_array, zipfile.ZIP_STORED, "would unpack to 134,"),
        (huge_array, zipfile.ZIP_STORED, "must hold 800,000,000,000,000"),
        (lambda members: None, zipfile.ZIP_LZMA, "compressed in a way"),
        (lambda members: None, zipfile.ZIP_BZIP2, "compressed in a way"),
    ],
)
def test_a_file_that_unpacks_to_too_much_is_refused(
    tmp_path, edit, compression, message
):
    path = tmp_path / "bomb.keras"
    edited(NEWEST, path, edit, compression)
    with pytest.raises(ValueError, match=rf"(?s)bomb\.keras'.*{message}"):
        kdr.TwoTowerRetrieval.load(path)


def test_an_encrypted_file_is_refused(tmp_path):
    content = bytearray(NEWEST.read_bytes())
    # The flag of a member, in its own header and in the list at the end.
    content[6] |= 1
    end = content.rindex(b"PK\x05\x06")
    listed = int.from_bytes(content[end + 16 : end + 20], "little")
    content[listed + 8] |= 1
    path = tmp_path / "secret.keras"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"secret\.keras'.*is encrypted"):
        kdr.TwoTowerRetrieval.load(path)


def test_a_file_that_was_packed_again_is_read(tmp_path):
    path = tmp_path / "packed.keras"
    edited(NEWEST, path, lambda members: None, zipfile.ZIP_DEFLATED)
    assert_same_answers(
        kdr.TwoTowerRetrieval.load(path),
        kdr.TwoTowerRetrieval.load(NEWEST, safe_mode=True),
        rtol=0,
    )


def test_python_code_in_a_file_is_not_run_unless_asked_for(tmp_path):
    tower = keras.Sequential(
        [kdr.RowEmbedding(5, 4), keras.layers.Lambda(lambda x: 2 * x)]
    )
    model = trained_model(user_tower=tower)
    model.save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match=r"m\.keras'(?s:.)*lambda"):
        kdr.TwoTowerRetrieval.load(tmp_path / "m.keras")
    trusted = kdr.TwoTowerRetrieval.load(tmp_path / "m.keras", safe_mode=False)
    assert_same_answers(trusted, model, rtol=0)


@pytest.mark.parametrize("command", [["evaluate"], ["recommend", "1"]])
def test_the_command_line_says_what_is_wrong_with_a_file(
    tmp_path, capsys, command
):
    path = tmp_path / "cut.keras"
    path.write_bytes(NEWEST.read_bytes()[:1000])
    other = tmp_path / "other.keras"
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(other)
    name, *rest = command
    for file, message in ((path, "is damaged"), (other, "must hold a TwoT")):
        assert cli.main([name, str(file), *rest]) == 1
        said = capsys.readouterr().err
        assert message in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("member", sorted(MEMBERS))
def test_a_missing_member_is_named(tmp_path, member):
    path = tmp_path / "wrong.keras"
    edited(FIXTURE, path, lambda members: members.pop(member))
    with pytest.raises(ValueError, match=rf"wrong.keras'.*{member}"):
        kdr.TwoTowerRetrieval.load(path)


def test_another_kind_of_model_or_no_file_is_named(tmp_path):
    path = tmp_path / "other.keras"
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path)
    with pytest.raises(
        ValueError, match=r"other.keras' must hold a TwoTower.*a Sequential"
    ):
        kdr.TwoTowerRetrieval.load(path)
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.keras"):
        kdr.TwoTowerRetrieval.load(tmp_path / "none.keras")


@pytest.mark.parametrize(
    ("num_cuts", "num_flips"),
    [(9, 40), pytest.param(300, 800, marks=pytest.mark.slow)],
)
def test_every_cut_and_every_flipped_byte_is_noticed(
    tmp_path, num_cuts, num_flips
):
    whole = NEWEST.read_bytes()
    path = tmp_path / "damaged.keras"
    expected = kdr.TwoTowerRetrieval.load(NEWEST)
    for length in np.linspace(0, len(whole) - 1, num_cuts, dtype=int):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"damaged.keras' is damaged"):
            kdr.TwoTowerRetrieval.load(path)
    noticed = 0
    for index in np.linspace(0, len(whole) - 1, num_flips, dtype=int):
        damaged = bytearray(whole)
        damaged[index] ^= 0xFF
        path.write_bytes(damaged)
        try:
            model = kdr.TwoTowerRetrieval.load(path)
        except ValueError as error:
            assert "damaged.keras'" in str(error)
            noticed += 1
        else:  # A byte that nobody reads, such as a date.
            assert_same_answers(expected, model, rtol=0)
    assert noticed > 0.75 * num_flips


# Files of earlier versions


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6])
def test_a_file_of_an_earlier_format_gives_what_it_gave(version, tmp_path):
    file = FIXTURE.with_stem(f"format_{version}")
    path = shutil.copy(file, tmp_path)
    # Not as errors: Keras passes over those of attributes that it reads.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FutureWarning)
        model = keras.saving.load_model(path)
        model.save(tmp_path / "again.keras")
    assert "popularity_offset" not in " ".join(str(w.message) for w in caught)
    stored = json.loads(file.with_suffix(".json").read_text())
    assert model.popularity_weight == stored.get(
        "popularity_weight", stored.get("popularity_offset", 0.0)
    )
    ids, scores = model.recommend(stored["user_ids"], k=3)
    assert ids.tolist() == stored["ids"]
    np.testing.assert_allclose(scores, stored["scores"], rtol=1e-5)
    np.testing.assert_array_equal(model.candidate_counts, stored["counts"])
    titles = {key: title for key, title in stored["titles"]}
    assert model.candidate_titles == titles
    np.testing.assert_allclose(train(model), stored["next_loss"], rtol=1e-5)


@pytest.mark.slow
def test_a_fresh_process_needs_only_the_import():
    process = run("load_and_recommend.py", FIXTURE)
    (said,) = outputs([process])
    assert process.returncode == 0, said
    stored = json.loads(FIXTURE.with_suffix(".json").read_text())
    ids, scores = json.loads(said.strip().splitlines()[-1])
    assert ids == stored["ids"]
    np.testing.assert_allclose(scores, stored["scores"], rtol=1e-5)
