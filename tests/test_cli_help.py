"""What the command line says of itself, to people and to scripts."""

import json
import math
import re
import shlex

import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval import cli
from keras_dp_retrieval.cli import entry, printing
from tests.test_cli_own_data import write_shop

# What is split here is small.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:.*{advice}:UserWarning")
    for advice in (
        "also in the train part",
        "older than the newest",
        "Validation and test are the same",
    )
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with a file of interactions and a model of them."""
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder)
    data = kdr.RetrievalDataset.from_csv(
        folder / "shop.csv",
        user_column="customer",
        candidate_column="product",
        timestamp_column="time",
        split="by_time",
        filters={"event": "purchase"},
        repeated="last",
    )
    model = kdr.TwoTowerRetrieval.for_dataset(data, embedding_dimension=4)
    model.build()
    model.save(folder / "model.keras")
    return folder


def json_of(capsys, *arguments):
    """The lines of JSON that a command prints, and what it says beside."""
    assert cli.main([*map(str, arguments), "--json"]) == 0
    said = capsys.readouterr()
    return [json.loads(line) for line in said.out.splitlines()], said.err


def examples():
    for name, module in entry.COMMANDS.items():
        for words in getattr(module, "EXAMPLES", {}):
            yield name, words


@pytest.mark.parametrize("name", entry.COMMANDS)
def test_help_says_what_a_command_does_and_shows_how(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    said = capsys.readouterr().out
    assert entry.COMMANDS[name].HELP[1:] in " ".join(said.split())
    shown = re.findall(rf"^  keras-dp-retrieval {name} ?(.*)$", said, re.M)
    assert shown == [words for of, words in examples() if of == name]
    assert shown or name == "devices"


@pytest.mark.parametrize(("name", "words"), list(examples()))
def test_examples_are_understood(name, words):
    args = entry._parse([name, *shlex.split(words)])
    assert args.run is entry.COMMANDS[name].run


def test_every_option_is_explained():
    actions = entry._parser()._subparsers._group_actions[0].choices.items()
    silent = [
        f"{name} {action.dest}"
        for name, parser in actions
        for action in parser._actions
        if not action.help
    ]
    assert not silent


def test_a_shell_can_complete_commands_and_options(capsys):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--print-completion", "bash"])
    script = capsys.readouterr().out
    assert "--candidate-features" in script
    assert f"subparsers=({' '.join(entry.COMMANDS)})" in script


def test_a_script_reads_the_metrics(shop, capsys):
    command = ("evaluate", shop / "model.keras")
    command += ("--interactions", shop / "shop.csv")
    (found,), beside = json_of(capsys, *command)
    assert cli.main(list(map(str, command))) == 0
    said = capsys.readouterr().out
    shown = dict(re.findall(r"^  (\w+) +([\d.]+)$", said, re.M))
    assert {name: f"{found[name]:.4f}" for name in shown} == shown
    assert "shop.csv" in found["data"] and found["synthetic"] is False
    assert beside.startswith("Data: 600 interactions of shop.csv")


def test_a_script_reads_the_lists(shop, capsys):
    model = kdr.TwoTowerRetrieval.load(shop / "model.keras")
    command = ("recommend", shop / "model.keras", "ann01", "nobody", "-k", 3)
    (ann, nobody), beside = json_of(capsys, *command)
    (ids,), (scores,) = model.recommend(["ann01"], k=3)
    assert ann["user_id"] == "ann01" and ann["source"] == "model"
    assert [one["candidate_id"] for one in ann["candidates"]] == ids.tolist()
    assert [one["score"] for one in ann["candidates"]] == scores.tolist()
    assert nobody["source"] == "popular" and len(nobody["candidates"]) == 3
    assert "Note: 1 of 2 users are not known" in beside


def test_a_script_reads_what_is_in_the_data(shop, capsys):
    command = ("inspect", shop / "shop.csv", "--filter", "event=purchase")
    (found,), beside = json_of(capsys, *command)
    assert found["num_interactions"] == 400
    assert (
        found["leakage"]["num_test"]
        == found["parts"]["test"]["num_interactions"]
    )
    assert found["plan"]["num_steps"] > 0
    assert "400 interactions of shop.csv" in beside


def test_json_has_null_where_there_is_no_number(capsys):
    import sys

    value = {"a": math.nan, "b": [np.float32(0.5), (np.int64(2), math.inf)]}
    printing.print_json(value, sys.stdout)
    assert json.loads(capsys.readouterr().out) == {
        "a": None,
        "b": [0.5, [2, None]],
    }


@pytest.mark.slow
def test_training_ends_with_commands_that_work(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["train", "--source", "synthetic"]
    command += ["--objective", "rating", "--epochs", "1"]
    assert cli.main([*command, "--output", "a model.keras"]) == 0
    said = capsys.readouterr().out.partition("Next:\n")[2]
    lines = [shlex.split(line) for line in said.splitlines()]
    assert [line[:3] for line in lines] == [
        ["keras-dp-retrieval", "recommend", "a model.keras"],
        ["keras-dp-retrieval", "evaluate", "a model.keras"],
    ]
    for line in lines:
        assert cli.main(line[1:]) == 0
