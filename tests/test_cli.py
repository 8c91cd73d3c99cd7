import os
import pathlib
import re
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval import cli
from keras_dp_retrieval.callbacks import distribution_aware
from keras_dp_retrieval.cli import inputs


def run(*arguments):
    """Runs the command line in a process of its own, as it is used."""
    return subprocess.run(
        [sys.executable, "-m", "keras_dp_retrieval", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
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
    assert "SYNTHETIC data" in output
    for heading in re.findall(r"^(?:Test part|Recommended).*$", output, re.M):
        assert "SYNTHETIC" in heading


@pytest.mark.slow
def test_saved_model_recommends(synthetic_training):
    _, path = synthetic_training
    done = run("recommend", path, 1, 2, "-k", 3)
    assert done.returncode == 0, done.stderr
    assert len(re.findall("Synthetic movie", done.stdout)) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--batch-size", "0"), "`--batch-size` must be"),
        (("train", "--epochs", "0"), "`--epochs` must be"),
        (("train", "--learning-rate", "nan"), "`--learning-rate` must be a f"),
        (("train", "--learning-rate", "inf"), "`--learning-rate` must be a f"),
        (
            ("train", "--objective", "rating", "--learning-rate", "0"),
            "`--learning-rate` must be a finite number in (0",
        ),
        (("train", "--data-dir", "/nowhere"), "`--data-dir` must exist"),
        (("train", "--version", "2k"), "`--version` must be one of '100k'"),
        (("devices", "--virtual-devices", "0"), "must be a whole number"),
    ],
)
def test_bad_arguments_say_what_would_work(arguments, message, capsys):
    assert cli.main(arguments) == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_train_falls_back_to_synthetic_data_and_says_so(
    monkeypatch, tmp_path, capsys
):
    from keras_dp_retrieval.data import movielens_tfds

    def unreachable(*_):
        raise RuntimeError("no way to grouplens.org")

    monkeypatch.setattr(movielens_tfds, "read_tfds", unreachable)
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


# Options


OWN_DATA = [
    ("--interactions", "nowhere.csv"),
    ("--interactions", ""),
    ("--interactions", "a_file", "--version", "100k"),
    ("--interactions", "a_file", "--source", "tfds"),
    ("--interactions", "a_file", "--data-dir", "folder.keras"),
    ("--user-column", "user"),
    ("--filter", "event=purchase"),
    ("--candidates", "a_file"),
    ("--interactions", "a_file", "--candidates", "nowhere.csv"),
    ("--user-features", "a_file"),
    ("--interactions", "a_file", "--candidate-features", "nowhere.csv"),
    ("--interactions", "a_file", "--features"),
    ("--interactions", "a_file", "--title-column", "title"),
    ("--interactions", "a_file", "--filter", "purchase"),
    ("--interactions", "a_file", "--filter", "=purchase"),
    ("--interactions", "a_file", "--repeated", "often"),
    ("--interactions", "a_file", "--repeated", "sum"),
    ("--interactions", "a_file", "--rating-range", "1"),
    ("--interactions", "a_file", "--rating-range", "5", "1"),
    ("--interactions", "a_file", "--rating-range", "1", "nan"),
    ("--interactions", "a_file", "--split", "tomorrow"),
]
NONSENSE = {
    "train": [
        *[("--epochs", value) for value in ("-1", "0", "many", "1.5")],
        *[("--embedding-dimension", value) for value in ("0", "-4")],
        *[("--learning-rate", value) for value in ("0", "nan", "inf", "-1")],
        *[("--steps-per-execution", value) for value in ("0", "-1")],
        ("--steps-per-execution", "2"),  # The recipe chooses them.
        *[("--batch-size", value) for value in ("0", "-1", "x")],
        *[("--seed", value) for value in ("-1", "4294967296")],
        *[("--virtual-devices", value) for value in ("0", "1000000000")],
        *[("--output", value) for value in ("movies.h5", "movies", "", ".")],
        ("--output", "nowhere/movies.keras"),
        ("--output", "folder.keras"),
        ("--output", "m" * 240 + ".keras"),
        ("--output", "/proc/movies.keras"),
        ("--log-dir", "a_file"),
        ("--log-dir", "a_file/runs"),
        ("--log-dir", ""),
        ("--objective", "fun"),
        ("--colour", "red"),
        *OWN_DATA,
    ],
    "tune": [
        *[("--max-trials", value) for value in ("0", "-1")],
        ("--epochs", "0"),
        ("--embedding-dimension", "16", "0"),
        ("--learning-rate", "0", "1"),
        ("--learning-rate", "nan"),
        ("--temperature", "-1"),
        ("--id-dropout", "0.3"),  # Without features.
        ("--features", "--id-dropout", "0", "1.5"),
        ("--features", "--hidden-width", "0"),
        ("--features", "--num-hidden-layers", "2"),  # Without their width.
        ("--seed", "-1"),
        ("--batch-size", "0"),
        ("--plot", "trials.xyz"),
        ("--plot", "trials"),
        ("--plot", "nowhere/trials.png"),
        ("--directory", "a_file"),
        *OWN_DATA,
    ],
    "evaluate": [
        (),
        ("a_file", "--batch-size", "0"),
        ("a_file", "--seed", "-1"),
        ("nowhere.keras",),
        *(("a_file", *options) for options in OWN_DATA),
    ],
    "recommend": [
        ("a_file",),
        ("a_file", "1", "--history", "1"),
        ("a_file", "--history"),
        ("a_file", "--users", "nowhere"),
        ("a_file", "1", "--users", "a_file"),
        ("a_file", "1", "--user-column", "user"),
        *[
            ("a_file", "1", "--output", output)
            for output in ("lists.txt", "lists", "", "a_file/lists.csv")
        ],
        ("nowhere.keras", "1"),
        ("a_file", "1", "-k", "0"),
        ("a_file", "1", "-k", "x"),
    ],
    "inspect": [
        ("a_file", "--seed", "-1"),
        ("a_file", "--figure", "figure.xyz"),
        ("a_file", "--figure", "nowhere/figure.png"),
        ("nowhere.csv",),
        ("a_file", "a_file"),
        ("a_file", "--version", "100k"),
        ("--filter", "event=purchase"),
    ],
    "report": [
        (),
        ("nowhere",),
        ("a_file",),
        ("folder.keras",),
        ("a_file", "a_file", "a_file"),
        ("a_file", "--figure", "figure.xyz"),
        ("a_file", "--figure", "nowhere/figure.png"),
    ],
    "devices": [("--virtual-devices", "-1"), ("more",)],
    "dance": [()],
}


@pytest.mark.parametrize("command", NONSENSE)
def test_nonsense_is_one_line_before_any_data_is_read(
    command, monkeypatch, tmp_path, capsys
):
    def read(*_):
        pytest.fail("The options were not checked first.")

    monkeypatch.setattr(inputs, "load_data", read)
    monkeypatch.chdir(tmp_path)
    pathlib.Path("folder.keras").mkdir()
    pathlib.Path("a_file").write_bytes(b"\x00\xff\n")
    for options in NONSENSE[command]:
        try:
            status = cli.main([command, *options])
        except SystemExit as stopped:
            status = stopped.code
        said = capsys.readouterr()
        assert status in (1, 2), options
        assert re.fullmatch(r"keras-dp-retrieval.*: .+\n", said.err), options
        assert not said.out, options
    assert sorted(os.listdir()) == ["a_file", "folder.keras"]


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"keras-dp-retrieval {kdr.__version__}\n"


# Ctrl-C


@pytest.fixture
def small_data(monkeypatch, on_devices):
    """What `train` and `tune` learn from, instead of MovieLens."""
    monkeypatch.setattr(kdr, "data_parallel", lambda: on_devices(1))

    def load(*_):
        rng = np.random.default_rng(0)
        return kdr.RetrievalDataset.from_interactions(
            rng.integers(1, 30, 400), rng.integers(1, 20, 400), batch_size=99
        )

    monkeypatch.setattr(inputs, "load_data", load)


@pytest.fixture
def interrupt(monkeypatch):
    """`interrupt(epoch)` presses Ctrl-C in a step of that epoch."""

    class Interrupted(distribution_aware.DistributionAwareCallback):
        at_epoch = None

        def on_epoch_begin(self, epoch, logs=None):
            super().on_epoch_begin(epoch, logs)
            self.epoch_now = epoch

        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            if self.epoch_now == self.at_epoch:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(kdr, "DistributionAwareCallback", Interrupted)

    def at(epoch):
        Interrupted.at_epoch = epoch

    return at


TRAIN = ("train", "--objective", "full_softmax", "--epochs", "3", "--output")


def test_ctrl_c_keeps_the_last_whole_epoch(
    small_data, interrupt, tmp_path, capsys
):
    output = tmp_path / "movies.keras"
    output.write_bytes(b"an older model")
    interrupt(2)
    assert cli.main([*TRAIN, str(output)]) == 130
    said = capsys.readouterr()
    beside = tmp_path / "movies.interrupted.keras"
    assert said.err == (
        f"keras-dp-retrieval: interrupted. Saved {beside}, the model as it was "
        f"after epoch 2; {output} is as it was.\n"
    )
    assert "\b" not in said.out
    assert output.read_bytes() == b"an older model"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "movies.interrupted.keras",
        "movies.keras",
    ]
    # It is the model that two epochs give, its optimizer included.
    interrupt(None)
    whole = tmp_path / "whole.keras"
    assert cli.main([*TRAIN[:4], "2", "--output", str(whole)]) == 0
    found, expected = map(keras.saving.load_model, (beside, whole))
    for one, other in zip(
        [*found.variables, *found.optimizer.variables],
        [*expected.variables, *expected.optimizer.variables],
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "objective",
    ["full_softmax", pytest.param("recipe", marks=pytest.mark.slow)],
)
def test_ctrl_c_in_the_first_epoch_has_nothing_to_save(
    objective, small_data, interrupt, tmp_path, capsys
):
    interrupt(0)
    output = tmp_path / "movies.keras"
    command = ["train", "--objective", objective, "--output", str(output)]
    assert cli.main(command) == 130
    said = capsys.readouterr()
    assert "interrupted. No epoch was whole yet, so there was" in said.err
    assert said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
    # A file, or what reads a pipe, gets lines and no bars.
    assert re.search(r"^Epoch 1/\d+$", said.out, re.M)
    assert "\b" not in said.out


def test_ctrl_c_while_the_model_is_evaluated_keeps_it(
    small_data, monkeypatch, tmp_path, capsys
):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(kdr, "evaluate", interrupted)
    output = tmp_path / "movies.keras"
    assert cli.main([*TRAIN, str(output)]) == 130
    assert "as it was after epoch 3;" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.slow
def test_ctrl_c_in_a_search_says_how_it_goes_on(
    small_data, monkeypatch, tmp_path, capsys
):
    from keras_dp_retrieval.tuning import hypermodel

    def fit(*_, **__):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(hypermodel.RetrievalHyperModel, "fit", fit)
    command = ["tune", "--max-trials", "1", "--directory", str(tmp_path)]
    assert cli.main(command) == 130
    said = capsys.readouterr().err
    assert said == (
        "keras-dp-retrieval: interrupted. The same command resumes what "
        f"is in {tmp_path / 'search'}.\n"
    )


def test_ctrl_c_anywhere_else_is_one_line(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(inputs, "load_data", interrupted)
    assert cli.main(["tune"]) == 130
    assert capsys.readouterr().err == "keras-dp-retrieval: interrupted.\n"


@pytest.mark.slow
def test_ctrl_c_ends_the_process_in_one_line(tmp_path):
    output = tmp_path / "movies.keras"
    command = ["train", "--source", "synthetic", "--objective", "rating"]
    command += ["--epochs", "100000", "--output", str(output)]
    with subprocess.Popen(
        [sys.executable, "-m", "keras_dp_retrieval", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Epoch 3/"):
                process.send_signal(signal.SIGINT)
                break
        rest, said = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert re.fullmatch(
        r"keras-dp-retrieval: interrupted\. Saved .*movies\.interrupted\.keras"
        r", the model as it was after epoch \d+; .*movies\.keras is as it "
        r"was\.\n",
        said,
    )
    assert "\b" not in "".join(lines) + rest
    model = keras.saving.load_model(tmp_path / "movies.interrupted.keras")
    assert model.recommend([1], k=3)[0].shape == (1, 3)
    assert not output.exists()


@pytest.mark.slow
def test_nothing_is_said_where_nobody_reads_on():
    command = [sys.executable, "-m", "keras_dp_retrieval", "inspect"]
    with subprocess.Popen(
        [*command, "--source", "synthetic"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.close()
        assert process.wait(timeout=300) == 141
        said = process.stderr.read()
    assert "Error" not in said and "keras-dp-retrieval:" not in said
