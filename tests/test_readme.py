"""The README's Python examples run, in order, as one program."""

import functools
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import keras_dp_retrieval as kdr

README = pathlib.Path(__file__).resolve().parent.parent / "README.md"


def examples():
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.S)


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


def test_examples_run_on_synthetic_data(monkeypatch, tmp_path):
    asked = []

    def synthetic(*arguments):
        asked.append(arguments)
        return kdr.RetrievalDataset.from_synthetic(100, 60, 2000)

    monkeypatch.setattr(kdr, "MovieLensRetrievalDataset", synthetic)
    # The recipe of the first example has a test of its own.
    monkeypatch.setattr(
        kdr,
        "fit_recipe",
        functools.partial(kdr.fit_recipe, epochs=1, embedding_dimension=8),
    )
    monkeypatch.chdir(tmp_path)  # They save a model.
    names = {}
    exec("\n".join(examples()), names)
    assert asked == [("100k",)]
    ids, scores = names["model"].recommend([1, 2, 3], k=10)
    np.testing.assert_array_equal(ids, names["ids"])
    np.testing.assert_allclose(scores, names["scores"], rtol=1e-6)
    assert names["throughput"].history[0]["num_devices"] == 8


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
