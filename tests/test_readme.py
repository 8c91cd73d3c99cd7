"""The README's Python examples run, in order, as one program."""

import functools
import os
import pathlib
import re
import shlex
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval import cli
from keras_dp_retrieval.cli import entry, inputs

README = pathlib.Path(__file__).resolve().parent.parent / "README.md"
CONTRIBUTING = README.parent / "CONTRIBUTING.md"


OTHERS_MODELS = "In a model of your own"


def examples(section=None):
    """The Python blocks of the README, or those of one section alone."""
    text = README.read_text()
    if section is not None:
        text = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, re.S)


def test_the_first_example_recommends_something_to_everybody(
    monkeypatch, capsys
):
    fit = kdr.fit_recipe
    quickly = functools.partial(fit, epochs=1, embedding_dimension=8)
    monkeypatch.setattr(kdr, "fit_recipe", quickly)
    exec(examples()[0], {})
    ids_and_scores = capsys.readouterr().out.split("{")[0]
    assert re.findall(r"'(?:tea|jam|oats|rye|milk)'", ids_and_scores)
    assert "''" not in ids_and_scores and "inf" not in ids_and_scores


@pytest.mark.slow
def test_examples_run_on_synthetic_data(monkeypatch, tmp_path):
    asked = []

    def synthetic(*arguments):
        asked.append(arguments)
        return kdr.RetrievalDataset.from_synthetic(
            100, 60, 2000, candidate_key="movie_id"
        )

    monkeypatch.setattr(kdr, "MovieLensRetrievalDataset", synthetic)
    # The recipe of the first example has a test of its own.
    monkeypatch.setattr(
        kdr,
        "fit_recipe",
        functools.partial(kdr.fit_recipe, epochs=1, embedding_dimension=8),
    )
    monkeypatch.chdir(tmp_path)  # They save a model.
    names = {}
    apart = examples(OTHERS_MODELS)  # Have a test of their own.
    exec("\n".join(e for e in examples() if e not in apart), names)
    assert asked == [("100k",)]
    ids, scores = names["model"].recommend([1, 2, 3], k=10)
    np.testing.assert_array_equal(ids, names["ids"])
    np.testing.assert_allclose(scores, names["scores"], rtol=1e-6)
    assert names["throughput"].history[0]["num_devices"] == 8


@pytest.mark.slow
def test_the_parts_drop_into_models_of_others(
    monkeypatch, tmp_path, on_devices
):
    monkeypatch.chdir(tmp_path)
    data = kdr.RetrievalDataset.from_synthetic(
        100, 60, 2000, candidate_key="movie_id"
    )
    names = {"kdr": kdr, "keras": keras, "data": data}
    on_devices(8)
    exec("\n".join(examples(OTHERS_MODELS)), names)
    logged = {
        "own_step": "squared_error",
        "functional": "val_ndcg_at_10",
        "sasrec": "val_recall_at_20",
    }
    for name, log in logged.items():
        (value,) = names[name].history.history[log]
        assert 0 < value < 1, name
    assert len(names["tables"].history.history["val_ndcg_at_10"]) == 2
    assert pathlib.Path("runs/tables").is_dir()
    ids, _ = names["deep"].recommend([1, 2], k=3)
    assert ids.shape == (2, 3)


def test_what_the_readme_names_is_there():
    text = README.read_text()
    for name in set(re.findall(r"kdr\.(\w+)", text)):
        assert hasattr(kdr, name), name
    for name in set(re.findall(r"\bmodel\.(\w+)\(", text)):
        assert hasattr(kdr.TwoTowerRetrieval, name), name
    for link in re.findall(r"\]\((?!https?:|#)(.+?)\)", text):
        # The package may be one that is installed, away from the README.
        of_package = link.startswith(f"{kdr.__name__}/")
        folder = pathlib.Path(kdr.__file__).parents[1]
        assert ((folder if of_package else README.parent) / link).exists(), link
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    anchors = {
        re.sub(r"[^\w -]", "", h).replace(" ", "-").lower() for h in headings
    }
    assert set(re.findall(r"\]\(#(.+?)\)", text)) <= anchors


def commands():
    """The commands on a file of one's own, as words."""
    section = README.read_text().split("\n## Your own data")[1]
    section = section.split("\n## ")[0]
    lines = re.findall(
        r"^    keras-dp-retrieval (.*shop.*|recommend.*)$", section, re.M
    )
    return list(map(shlex.split, lines))


@pytest.fixture
def shop(monkeypatch, tmp_path):
    """A folder with the files that the commands read."""
    write_shop(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_have_options_that_there_are(shop, monkeypatch, capsys):
    def stop(*_):
        raise RuntimeError("understood")

    monkeypatch.setattr(inputs, "load_model", stop)
    monkeypatch.setattr(inputs, "load_data", stop)
    assert len(commands()) == 6
    for command in commands():
        assert cli.main(command) == 1
        assert capsys.readouterr().err.endswith(": understood\n"), command


def test_the_commands_for_several_processes_are_understood():
    section = README.read_text().split("\n## From a laptop to several hosts")[1]
    section = section.split("\n## ")[0]
    lines = re.findall(r"^ .*?keras-dp-retrieval (.*)$", section, re.M)
    for line in lines:
        entry._parse(shlex.split(line, comments=True))
    # One for each `--`, two hosts and one.
    assert sum("launch" in line for line in lines) == 2 and len(lines) == 4


def test_the_commands_of_cluster_files_are_understood():
    folder = pathlib.Path(kdr.__file__).parent / "examples"
    script = (folder / "train.sbatch").read_text()
    (line,) = re.findall(r"^srun .*keras-dp-retrieval (.*)$", script, re.M)
    entry._parse(shlex.split(line))
    job = (folder / "train.yaml").read_text()
    listed = re.search(r"command: \[keras-dp-retrieval, (.*)\]", job)[1]
    entry._parse(listed.split(", "))


@pytest.mark.slow
def test_the_commands_run_on_a_file_of_ones_own(
    shop, monkeypatch, on_devices, capsys
):
    monkeypatch.setattr(kdr, "data_parallel", lambda: on_devices(1))
    monkeypatch.setattr(
        kdr,
        "fit_recipe",
        functools.partial(kdr.fit_recipe, epochs=1, embedding_dimension=8),
    )
    for command in commands():
        assert cli.main(command) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "filters kept 90 of 180 rows" in said
    assert len(re.findall("^Recommended for", said, re.M)) == 1 + 3
    assert re.search(r" tea  Tea of the house$", said, re.M)
    assert (shop / "lists.parquet").exists() and (shop / "shop.png").exists()


def write_shop(folder):
    """The files that the commands read."""
    things = ["tea", "jam", "oats", "rye", "milk", "eggs", "salt", "soap"]
    names = [f"{kind}{n}" for n in range(9) for kind in ("ann", "bob")]
    names = ["ann", "bob", *names][:18]
    rng = np.random.default_rng(0)
    rows = [
        f"{names[n % 18]},{rng.choice(things)},{event},2026-03-{1 + n // 6:02}"
        for n in range(90)
        for event in ("view", "purchase")
    ]
    header = "user,item,event,date"
    (folder / "shop.csv").write_text("\n".join([header, *rows]))
    titles = [f"{one},{one.title()} of the house" for one in things]
    (folder / "products.csv").write_text("\n".join(["id,name", *titles]))
    (folder / "users.csv").write_text("user\nann\nbob\n")


def test_the_layout_names_every_module():
    tree = CONTRIBUTING.read_text().split("\n## Where things live")[1]
    tree = tree.split("\n## ")[0]
    named = set(re.findall(r"^ {6}(\S+)", tree, re.M))
    package = pathlib.Path(kdr.__file__).parent
    there = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in package.iterdir()
        if path.name not in ("__pycache__", "_version.py", "py.typed")
    }
    assert named == there


def test_versions_are_those_that_are_declared():
    declared = (README.parent / "setup.cfg").read_text()
    section = CONTRIBUTING.read_text().split("## Versions")[1]
    section = section.split("\n## ")[0]
    (bounds,) = re.findall(r"^ +(keras >= .*)$", declared, re.M)
    assert f"`{bounds}`" in section and f"`{bounds}`" in README.read_text()
    lowest = re.search(r"\| lowest \|.*", section)[0]
    for name in ("keras", "jax", "tensorflow", "numpy"):
        bound = re.search(rf"^ +{name} >= ([\d.]+)", declared, re.M)[1]
        assert f" {bound}." in lowest, name


@pytest.mark.slow
@pytest.mark.realdata
def test_examples_run(data_dir, tmp_path):
    program = "\n".join(examples())
    assert "MovieLensRetrievalDataset(" in program
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=tmp_path,
        # Where the example would download, TFDS finds the prepared copy.
        env={**os.environ, "TFDS_DATA_DIR": str(data_dir / "tfds")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
