import re
import subprocess
import sys

import keras
import pytest

from keras_dp_retrieval import cli


def run(*arguments):
    """Runs the command line in a process of its own, as it is used."""
    return subprocess.run(
        [sys.executable, "-m", "keras_dp_retrieval", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_devices_splits_the_cpu():
    done = run("devices", "--virtual-devices", 3)
    assert done.returncode == 0, done.stderr
    assert "3 device(s): cpu:0, cpu:1, cpu:2" in done.stdout


@pytest.fixture(scope="module")
def synthetic_training(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "movies.keras"
    done = run(
        *("train", "--source", "synthetic", "--objective", "rating"),
        *("--epochs", 2, "--virtual-devices", 2, "--output", path),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, path


def test_train_reports_devices_metrics_and_titles(synthetic_training):
    output, _ = synthetic_training
    assert "Devices (2): cpu:0, cpu:1" in output
    assert re.search(r"cpu:1 .* 40,000 ", output)
    assert re.search(r"ndcg_at_10 +0\.\d+", output)
    lists = re.findall(r"Recommended for user", output)
    assert len(lists) == 2  # One for each device.


def test_every_synthetic_figure_is_marked(synthetic_training):
    output, _ = synthetic_training
    assert "SYNTHETIC: made-up data" in output
    for heading in re.findall(r"^(?:Test part|Recommended).*$", output, re.M):
        assert "SYNTHETIC" in heading


def test_saved_model_recommends(synthetic_training):
    _, path = synthetic_training
    done = run("recommend", path, 1, 2, "-k", 3)
    assert done.returncode == 0, done.stderr
    assert len(re.findall("Synthetic movie", done.stdout)) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--batch-size", "0"), "`batch_size` must be"),
        (("train", "--epochs", "0"), "`--epochs` must be"),
        (("train", "--data-dir", "/nowhere"), "`data_dir` must exist"),
        (("train", "--version", "2k"), "`version` must be one of '100k'"),
        (("devices", "--virtual-devices", "0"), "must be a whole number"),
    ],
)
def test_bad_arguments_say_what_would_work(arguments, message, capsys):
    assert cli.main(arguments) == 1
    assert message in capsys.readouterr().err


def test_train_falls_back_to_synthetic_data_and_says_so(
    monkeypatch, tmp_path, capsys
):
    from keras_dp_retrieval.data import sources

    def unreachable(*_):
        raise RuntimeError("no way to grouplens.org")

    monkeypatch.setattr(sources, "read_tfds", unreachable)
    output = tmp_path / "m.keras"
    arguments = ["train", "--epochs", "1", "--output", str(output)]
    assert cli.main([*arguments, "--objective", "rating"]) == 0
    printed = capsys.readouterr().out
    assert "MovieLens could not be reached: no way to" in printed
    assert "SYNTHETIC" in printed
    assert keras.saving.load_model(output).num_users > 900
    # Asked for by name, it never falls back.
    assert cli.main([*arguments, "--source", "tfds"]) == 1
    assert "no way to grouplens.org" in capsys.readouterr().err
