"""What the README says a serving machine needs is enough."""

import json
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "tests" / "programs" / "only_installed.py"


def commands():
    """The packages of the README's two commands, without their versions."""
    # They follow the sentence that says what is not needed.
    _, rest = (ROOT / "README.md").read_text().split("neither TensorFlow nor")
    lines = re.findall(r"^    pip install (.*)$", rest, re.M)[:2]
    return [re.findall(r"'?([a-z][a-z-]+)", line) for line in lines]


def test_only_our_package_is_installed_without_what_it_requires():
    first, second = commands()
    assert second == ["no-deps", "keras-dp-retrieval"]
    assert {"keras", "jax"} <= set(first)
    assert not {"tensorflow", "tensorflow-datasets", "keras-tuner"} & set(first)


@pytest.mark.slow
def test_a_machine_with_these_packages_serves_and_evaluates(tmp_path):
    rng = np.random.default_rng(0)
    pairs = rng.permutation(12 * 20)[:160]  # Nobody has a candidate twice.
    arrays = {"user_ids": 1 + pairs // 20, "candidate_ids": 1 + pairs % 20}
    np.savez(tmp_path / "interactions.npz", **arrays)
    data = kdr.RetrievalDataset(
        *arrays.values(),
        test_fraction=0.2,
        validation_fraction=0,
        candidate_features={
            "item_id": np.arange(1, 21),
            "kind": [f"k{number % 4}" for number in range(20)],
            "words": ["red hot", "blue", "cold", "red"] * 5,
            "price": np.arange(20.0),
        },
    )
    model = kdr.TwoTowerRetrieval.for_dataset(data, embedding_dimension=8)
    model.compile(optimizer=keras.optimizers.Adagrad(0.1))
    model.fit(data.train, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    files = [tmp_path / "model.keras", tmp_path / "interactions.npz"]
    done = subprocess.run(
        [sys.executable, PROGRAM, *files, *commands()[0]],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    ids, of_index, metrics = json.loads(done.stdout.splitlines()[-1])
    users = model.user_vocabulary.ids[:4]
    assert ids == model.recommend(users, k=3)[0].tolist()
    index = model.build_index()
    found, _ = index.search(model.encode_users(users), k=3)
    assert of_index == found.tolist()
    assert metrics == pytest.approx(kdr.evaluate(model, data, ks=(3,)))


HIDDEN = """
import runpy, sys
for name in ("tensorflow", "tensorflow_datasets", "keras_tuner", "keras_rs",
             "pyarrow", "sklearn"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_the_benchmark_for_gpus_needs_jax_keras_and_numpy_alone():
    program = ROOT / "benchmarks" / "on_gpu.py"
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN, program, "--size", "small"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    about, *lines = map(json.loads, done.stdout.splitlines())
    assert about["jax"] and about["device"]
    assert not [one for one in lines if {"error", "left_out"} & one.keys()]
    sections = list(dict.fromkeys(one["section"] for one in lines))
    assert sections == [
        *("matmul", "tutorial", "callback", "row_sparse"),
        *("in_batch", "full", "top_k", "evaluation"),
    ]
