"""What is exported answers elsewhere as the model does, or is refused."""

import hashlib
import json
import pathlib
import re
import shlex

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval import cli
from keras_dp_retrieval.index import faiss_kinds
from keras_dp_retrieval.serving import (
    export_proof,
    exported_tables,
    exported_tower,
    standalone_check,
)

QUICK = ["parquet"]


@pytest.fixture
def everything():
    for name in ("jax2onnx", "onnx", "onnxruntime"):
        pytest.importorskip(name, reason="needs the extra `export`")
    pytest.importorskip("faiss", reason="needs the extra `index`")


def data_of(names=False, features=False, histories=True):
    rng = np.random.default_rng(0)
    users, candidates = rng.integers(0, 40, 1500), rng.integers(0, 300, 1500)
    if names:
        users, candidates = (
            [f"{prefix} {one}" for one in ids]
            for prefix, ids in (("user", users), ("thing", candidates))
        )
    options = {}
    if features:
        options = {
            "user_features": {
                "user_id": [f"user {n}" for n in range(40)],
                "age": [None if n % 9 == 4 else 20.0 + n for n in range(40)],
                "country": ["SE", "GB", None, "DE"] * 10,
                "likes": [["a", "b|c", "d"][: n % 4] for n in range(40)],
                "since": np.datetime64("2020-01-01T10:30:00")
                + np.arange(40).astype("m8[h]"),
                "about": ["Likes tea", "Has a cat, Zoë", "x"] * 13 + [None],
            },
            "candidate_features": {
                "item_id": [f"thing {n}" for n in range(300)],
                "kind": ["tea", "jam", None] * 100,
                "price": [None if n % 5 == 0 else n / 7 for n in range(300)],
                "title": [f"about {n}" for n in range(300)],
            },
        }
        options["user_features"] = kdr.Features(
            options["user_features"],
            kinds={"about": "text", "likes": "multi_label"},
        )
    return kdr.RetrievalDataset.from_interactions(
        user_ids=users,
        candidate_ids=candidates,
        timestamps=np.arange(1500),
        test_fraction=0.0,
        validation_fraction=0.0,
        **options,
    )


def model_of(data, user_tower=None, **options):
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, 8, user_tower=user_tower, **options
    )
    model.candidate_counts.assign(data.candidate_counts())
    return model


def of_ids(**options):
    return model_of(data_of(), **options)


def of_id_histories():
    data = data_of(names=True)
    tower = kdr.IdHistoryTower(data.num_users, data.num_candidates, 8)
    return model_of(data, tower, popularity_weight=0.5)


def of_recency():
    data = data_of()
    return model_of(data, kdr.RecencyTower(data.num_candidates, 8))


def of_sequences():
    data = data_of(names=True)
    tower = kdr.SequenceTower(
        data.num_candidates, 8, num_blocks=1, max_length=20
    )
    return model_of(data, tower)


def of_features():
    return model_of(data_of(names=True, features=True), popularity_weight=1.0)


def of_features_and_histories():
    data = data_of(names=True, features=True)
    inner = kdr.RecencyTower(data.num_candidates, 8)
    tower = kdr.FeatureTower(data.user_features, 8, hidden=(8,), history=inner)
    return model_of(data, tower)


def of_normalized():
    return of_ids(objective=kdr.InBatchSoftmax(normalize=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        of_ids,
        of_id_histories,
        of_recency,
        of_sequences,
        of_features,
        of_features_and_histories,
        of_normalized,
    ],
)
def test_every_tower_is_served_as_the_model_answers(make, tmp_path, everything):
    model = make()
    manifest = kdr.export_retrieval(model, tmp_path / "served")
    artefacts = {"onnx", "saved_model", "parquet", "npz", "flat"}
    proof = manifest["proof"]
    assert artefacts | {"ivf", "hnsw", "num_requests"} == set(proof)
    assert proof["num_requests"] >= 40
    for one in artefacts:
        assert proof[one]["largest_score_difference"] <= 1e-5
        assert proof[one]["num_ids"] == proof["num_requests"] * 100
    assert manifest["recalls"]["hnsw"]["10"] > 0.9
    assert manifest["dimension"] == model.encode_candidates().shape[1]
    for name, checksum in manifest["checksums"].items():
        contents = (tmp_path / "served" / name).read_bytes()
        assert hashlib.sha256(contents).hexdigest() == checksum
    there = {
        path.relative_to(tmp_path / "served").as_posix()
        for path in (tmp_path / "served").rglob("*")
        if path.is_file()
    }
    assert there == {*manifest["checksums"], "manifest.json"}


@pytest.mark.slow
def test_what_was_trained_on_several_devices_is_exported(
    tmp_path, everything, on_devices
):
    on_devices(4)
    model = of_recency()
    model.compile(optimizer="adam")
    model.fit(data_of().train, epochs=1, verbose=0)
    kdr.export_retrieval(model, tmp_path / "served")
    model.save(tmp_path / "m.keras")
    keras.distribution.set_distribution(None)
    loaded = kdr.TwoTowerRetrieval.load(tmp_path / "m.keras")
    kdr.export_retrieval(loaded, tmp_path / "again")


@pytest.mark.slow
def test_a_folder_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    model = of_ids()
    folder = tmp_path / "deep" / "served"
    manifest = kdr.export_retrieval(model, folder, formats=QUICK)
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    before = (folder / "candidates.npz").read_bytes()
    with pytest.raises(FileExistsError, match=r"an earlier export.*overwrite"):
        kdr.export_retrieval(model, folder, formats=QUICK)
    model.candidate_tower.embeddings.assign(
        2 * model.candidate_tower.embeddings
    )
    with monkeypatch.context() as patch:
        patch.setattr(export_proof, "TOLERANCE", -1.0)
        with pytest.raises(RuntimeError, match="does not answer as the model"):
            kdr.export_retrieval(model, folder, formats=QUICK, overwrite=True)
    assert (folder / "candidates.npz").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["served"]
    kdr.export_retrieval(model, folder, formats=QUICK, overwrite=True)
    saved = np.load(folder / "candidates.npz")
    np.testing.assert_array_equal(saved["ids"], model.retrievable_ids())
    np.testing.assert_array_equal(saved["vectors"], model.encode_candidates())
    assert [path.name for path in folder.parent.iterdir()] == ["served"]
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="something else"):
        kdr.export_retrieval(
            model, tmp_path / "mine", formats=QUICK, overwrite=True
        )


@pytest.mark.parametrize(
    "wrong",
    [
        "vectors",
        pytest.param("ids", marks=pytest.mark.slow),
        pytest.param("program", marks=pytest.mark.slow),
    ],
)
def test_what_disagrees_is_refused(wrong, tmp_path, monkeypatch):
    model = of_ids()
    write = exported_tables.write_candidates

    def damaged(model, exact, folder):
        ids, vectors = exact.ids(), exact.vectors()
        if wrong == "vectors":
            vectors[7] *= 1.001
        if wrong == "ids":
            ids[[3, 4]] = ids[[4, 3]]
        write(model, exact, folder)
        if wrong == "program":
            (folder / "candidates.npz").write_bytes(b"")
        else:
            np.savez(folder / "candidates.npz", ids=ids, vectors=vectors)

    monkeypatch.setattr(exported_tables, "write_candidates", damaged)
    message = "as 'npz' (does not answer|cannot be served)"
    with pytest.raises(RuntimeError, match=message):
        kdr.export_retrieval(model, tmp_path / "served", formats=QUICK)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_parquet_has_what_is_known_of_candidates(tmp_path):
    from pyarrow import parquet

    model = of_features()
    model.candidate_titles = {"thing 3": "Three"}
    manifest = kdr.export_retrieval(model, tmp_path / "served", formats=QUICK)
    assert manifest["keras_dp_retrieval"] == kdr.__version__
    table = parquet.read_table(tmp_path / "served" / "candidates.parquet")
    assert table.column_names == [
        "id",
        "vector",
        "title",
        "kind",
        "price",
        "feature_title",
    ]
    by_id = {one["id"]: one for one in table.to_pylist()}
    for number in range(300):
        one = by_id[f"thing {number}"]
        assert one["kind"] == ["tea", "jam", None][number % 3]
        expected = None if number % 5 == 0 else number / 7
        assert one["price"] == (expected and pytest.approx(expected, abs=1e-4))
    assert by_id["thing 3"]["title"] == "Three"
    assert by_id["thing 4"]["title"] is None


def test_requests_are_encoded_as_the_model_encodes_them():
    data = data_of(names=True, features=True)
    schema = data.user_features.schema
    raw = {
        "age": [30.5, None, 1e6],
        "country": ["SE", None, "Narnia"],
        "likes": [["d", "b|c", "d"], [], ["e"]],
        "since": ["2020-01-02T00:00:00", None, "1999-12-31"],
        "about": ["a CAT, tea zoë!", None, ""],
    }
    expected = schema.encode(raw)
    for name, column in expected.items():
        encoder = schema.encoders[name]
        config = {"kind": encoder.kind, **encoder.get_config()}
        found = standalone_check.encoded(config, raw[name])
        assert found.dtype == column.dtype
        if column.ndim > 1:
            for one, other in zip(found, column, strict=True):
                assert set(one[one > 0]) == set(other[other > 0])
        else:
            np.testing.assert_allclose(found, column, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"formats": []}, ValueError, "`formats` must be a list of some of"),
        ({"formats": "onnx"}, ValueError, "`formats` must be a list"),
        ({"formats": ["tflite"]}, ValueError, "one of 'onnx', 'saved_model'"),
        ({"overwrite": 1}, ValueError, "`overwrite` must be True or False"),
    ],
)
def test_arguments_that_do_not_fit_write_nothing(
    tmp_path, options, error, message
):
    with pytest.raises(error, match=message):
        kdr.export_retrieval(of_ids(), tmp_path / "served", **options)
    assert not list(tmp_path.iterdir())


def test_models_that_cannot_be_exported_say_why(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="`model` must be a `TwoTowerRetr"):
        kdr.export_retrieval(keras.Model(), tmp_path / "served")
    tower = keras.Sequential([keras.layers.Dense(4)])
    odd = kdr.TwoTowerRetrieval(9, 9, 4, user_tower=tower)
    odd(np.ones((2, 3), "float32"))
    with pytest.raises(ValueError, match="towers of ids, histories or feat"):
        kdr.export_retrieval(odd, tmp_path / "served", formats=QUICK)
    for module, format in (("faiss", "faiss"), ("jax2onnx", "onnx")):
        monkeypatch.setitem(__import__("sys").modules, module, None)
        with pytest.raises(ImportError, match=r"pip install 'keras-dp-ret"):
            kdr.export_retrieval(
                of_ids(), tmp_path / "served", formats=[format]
            )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_of_the_readme_runs(tmp_path, monkeypatch, everything):
    readme = pathlib.Path(__file__).resolve().parents[1] / "README.md"
    (command,) = re.findall(
        r"^    keras-dp-retrieval (export .*)$", readme.read_text(), re.M
    )
    monkeypatch.chdir(tmp_path)
    of_ids().save("movies.keras")
    assert cli.main(shlex.split(command)) == 0
    assert (tmp_path / "served" / "user_tower" / "user_tower.onnx").exists()


@pytest.mark.slow
def test_the_command_says_what_was_proved(tmp_path, capsys):
    of_ids().save(tmp_path / "m.keras")
    words = ["export", str(tmp_path / "m.keras"), str(tmp_path / "served")]
    assert cli.main([*words, "--formats", "parquet"]) == 0
    said = capsys.readouterr().out
    assert "299 candidates, vectors of 8, inner_product" in said
    assert "parquet: same lists for 40 requests; scores differ by" in said
    assert cli.main([*words, "--formats", "parquet"]) == 1
    assert "`--overwrite` replaces it" in capsys.readouterr().err
    words += ["--formats", "parquet", "--overwrite", "--json"]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["num_candidates"] == 299


def test_a_tower_too_large_for_onnx_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(exported_tower, "LARGEST_ONNX", 100)
    model = of_ids()
    model.build()
    with pytest.raises(ValueError, match=r"at most 2 GB.*saved_model"):
        exported_tower.write(model, ["onnx"], tmp_path)


def test_the_program_that_asks_imports_nothing_of_ours():
    source = pathlib.Path(standalone_check.__file__).read_text()
    assert "import keras" not in source
    assert faiss_kinds.KINDS == ("flat", "ivf", "hnsw")
