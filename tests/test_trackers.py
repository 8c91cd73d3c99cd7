"""What `fit` says of itself, and the model, arrive in other trackers."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.test_readme import README

pytestmark = pytest.mark.slow

BEFORE = """
import keras, keras_dp_retrieval as kdr
data = kdr.RetrievalDataset.from_synthetic(100, 60, 2000, split="by_time")
model = kdr.TwoTowerRetrieval.for_dataset(data, 8)
model.compile(optimizer=keras.optimizers.Adam(0.01))
"""
AFTER = """
import json
client, logged = mlflow.MlflowClient(), {}
for name in client.get_run(saved.run_id).data.metrics:
    points = client.get_metric_history(saved.run_id, name)
    logged[name] = [point.value for point in points]
ids, _ = model.recommend([1, 2, 3], k=5)
print(json.dumps(
    [history.history, logged, saved.model_uri, ids.tolist()]))
"""
LOAD = """
import sys, keras_dp_retrieval, mlflow
mlflow.set_tracking_uri("sqlite:///mlflow.db")
model = mlflow.keras.load_model(sys.argv[1])
print(model.recommend([1, 2, 3], k=5)[0].tolist())
"""


def of_readme():
    section = README.read_text().split("## Trackers\n")[1].split("\n## ")[0]
    text = "\n".join(re.findall(r"^    (.*)$", section, re.M))
    # With what `fit` returns, to compare with.
    assert text.count(" model.fit(") == 1
    return text.replace(" model.fit(", " history = model.fit(")


def said(program, folder, *words):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *words],
        cwd=folder,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder in which the README's lines ran, and what came of them."""
    for name in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(name, reason="needs MLflow, and SQLite for it")
    pytest.importorskip("tensorboard", reason="needs the extra `plots`")
    folder = tmp_path_factory.mktemp("trackers")
    return folder, said(BEFORE + of_readme() + AFTER, folder)


def test_mlflow_has_the_metrics_and_the_throughput_of_every_epoch(run):
    _, (history, logged, _, _) = run
    assert len(history["examples_per_second_per_device"]) == 2
    assert "ndcg_at_10" in " ".join(history)
    for name, values in history.items():
        np.testing.assert_allclose(logged[name], values, rtol=1e-6)


def test_another_process_loads_the_model_from_mlflow(run):
    folder, (*_, address, ids) = run
    assert said(LOAD, folder, address) == ids


def test_tensorboard_has_the_metrics_and_the_throughput(run):
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util.tensor_util import make_ndarray

    folder, (history, *_) = run

    def scalars(part, tag):
        path = str(folder / "logs" / part)
        events = event_accumulator.EventAccumulator(path)
        events.Reload()
        if tag in events.Tags()["scalars"]:
            return [event.value for event in events.Scalars(tag)]
        tensors = [event.tensor_proto for event in events.Tensors(tag)]
        return [float(make_ndarray(tensor)) for tensor in tensors]

    rates = history["examples_per_second"]
    for part, tag, values in (
        ("train", "epoch_examples_per_second", rates),
        ("validation", "epoch_ndcg_at_10", history["val_ndcg_at_10"]),
        ("devices", "throughput/examples_per_second", rates),
    ):
        np.testing.assert_allclose(scalars(part, tag), values, rtol=1e-6)
