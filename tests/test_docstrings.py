"""Every `Example:` of the reference runs, and the reference builds."""

import functools
import inspect
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr

ROOT = pathlib.Path(__file__).resolve().parents[1]


def examples():
    """`{name: code}` of the public names, and of their methods."""
    found = {}

    def look(name, thing):
        text = inspect.getdoc(thing) or ""
        for code in re.findall(r"Example:\s+```python\n(.*?)```", text, re.S):
            if code not in found.values():
                found[name] = code
        if inspect.isclass(thing):
            for inner in vars(thing):
                if not inner.startswith("_"):
                    look(f"{name}.{inner}", getattr(thing, inner))

    for module in (kdr, kdr.losses):
        for name in module.__all__:
            look(name, getattr(module, name))
    return found


@pytest.fixture(scope="module")
def names():
    """What the examples are about: users, items and a model of them."""
    rng = np.random.default_rng(0)
    pairs = rng.permutation(40 * 30)[:500]
    user_ids, movie_ids = 1 + pairs // 30, 1 + pairs % 30
    with pytest.warns(UserWarning, match="older than the newest"):
        data = kdr.RetrievalDataset(
            user_ids,
            movie_ids,
            timestamps=rng.permutation(500),
            split="random",
            candidate_key="movie_id",
            candidate_features={
                "item_id": np.arange(1, 31),
                "price": rng.random(30),
                "genres": ["new|old", "old", "odd"] * 10,
            },
        )
    model = kdr.TwoTowerRetrieval.for_dataset(data, 8)
    model.compile(keras.optimizers.Adagrad(0.1))
    model.fit(data.train, epochs=1, verbose=0)
    return {
        "kdr": kdr,
        "keras": keras,
        "np": np,
        "data": data,
        "model": model,
        "user_ids": user_ids,
        "movie_ids": movie_ids,
        "candidate_ids": movie_ids,
        "some_users": data.user_vocabulary.ids[:20],
        "vectors": rng.random((3, 4)),
        "query_vectors": rng.random((2, 4)),
    }


def fewer(function, **less):
    """The same function, which takes less time."""

    @functools.wraps(function)
    def shortened(*args, **kwargs):
        return function(*args, **{**kwargs, **less})

    return shortened


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", examples())
def test_the_example_runs(name, names, monkeypatch, tmp_path):
    import keras_tuner

    if name == "export_retrieval":
        pytest.importorskip("jax2onnx", reason="needs the extra `export`")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "events.csv").write_text(
        "user_id,item_id\n" + "".join(f"{n % 7},{n % 11}\n" for n in range(60))
    )
    (tmp_path / "items.csv").write_text(
        "item_id,zip\n" + "".join(f"{n},{n % 3}\n" for n in range(11))
    )
    small = {"epochs": 1, "embedding_dimension": 4}
    monkeypatch.setattr(kdr, "fit_recipe", fewer(kdr.fit_recipe, **small))
    few = {"max_trials": 1, "epochs": 1, "embedding_dimension": [4]}
    monkeypatch.setattr(kdr, "search", fewer(kdr.search, **few), raising=False)
    monkeypatch.setattr(
        keras_tuner,
        "RandomSearch",
        fewer(keras_tuner.RandomSearch, max_trials=1),
    )
    monkeypatch.setattr(
        keras.Model, "fit", fewer(keras.Model.fit, epochs=1, verbose=0)
    )
    given = {**names, "keras_tuner": keras_tuner}
    if name == "fit_recipe":  # It recommends to Ann.
        ids = np.array(["ann", "bob", "cid", "dee"])
        given["user_ids"] = ids[names["user_ids"] % 4]
    if name in ("DistributionAwareCallback", "ShuffleTies"):
        given["model"] = kdr.TwoTowerRetrieval.for_dataset(
            names["data"],
            4,
            user_tower=kdr.RecencyTower(names["data"].num_candidates, 4)
            if name == "ShuffleTies"
            else None,
        )
        given["model"].compile("adam")
    code = examples()[name]
    exec(compile(code, f"<example of {name}>", "exec"), given)
    shown = dict(re.findall(r"^(.+)  # (\(.+\)).*$", code, re.M))
    for call, shape in shown.items():
        found = eval(call.partition(" = ")[2] or call, given)
        sizes = shape[1:-1].replace("length", str(found.shape[-1]))
        assert str(found.shape) == f"({sizes})"


@pytest.mark.slow
def test_the_reference_builds_without_a_warning():
    pytest.importorskip("pdoc")
    done = subprocess.run(
        [ROOT / ".ci" / "docs"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable},
    )
    assert done.returncode == 0, done.stderr
    assert "Warn" not in done.stderr
