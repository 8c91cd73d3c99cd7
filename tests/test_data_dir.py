"""`--data-dir` means the same to every benchmark."""

import argparse
import ast
import pathlib
import re

import pytest

from benchmarks import movielens_folder

FOLDER = pathlib.Path(movielens_folder.__file__).parent
FILES = sorted(FOLDER.glob("*.py"))


def parsed(words, **options):
    parser = argparse.ArgumentParser()
    movielens_folder.add_data_dir(parser, **options)
    return parser.parse_args(words).data_dir


def test_one_file_defines_the_option():
    own = {
        path.name
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", "") == "add_argument"
        and any(
            isinstance(word, ast.Constant) and word.value == "--data-dir"
            for word in node.args
        )
    }
    assert own == {"movielens_folder.py"}


def test_whoever_reads_movielens_asks_for_its_folder():
    users = [p for p in FILES if "add_data_dir(" in p.read_text()]
    assert len(users) > 10
    for path in FILES:
        passed = re.findall(r"\bdata_dir=(\w+)", path.read_text())
        assert set(passed) <= {"ml_100k", "prepared"}, path.name


def test_the_commands_name_the_folder_that_holds_both():
    # A line of a command is indented, or follows "Usage:"; no code is meant.
    command = re.compile(r"^(?:    |Usage:)[^\"'`\n]*--data-dir (\S+)", re.M)
    readme = FOLDER / "README.md"
    for path in [*FILES, readme]:
        named = command.findall(path.read_text())
        # Or one that `ordered_data.py` has made up.
        named = {name for name in named if not name.startswith("made-up/")}
        assert named <= {"data"}, path.name
    assert len(command.findall(readme.read_text())) > 10


def test_it_is_the_folder_above_or_that_of_the_files(tmp_path, monkeypatch):
    monkeypatch.delenv("KDR_DATA_DIR", raising=False)
    files = tmp_path / "ml-100k"
    files.mkdir()
    (files / "u.data").touch()
    (tmp_path / "tfds").mkdir()
    for given in (tmp_path, files):
        found = parsed(["--data-dir", str(given)])
        assert movielens_folder.ml_100k(found) == files
    assert movielens_folder.prepared(tmp_path) == tmp_path / "tfds"


def test_the_environment_says_it_where_the_option_is_not_given(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("KDR_DATA_DIR", str(tmp_path))
    assert parsed([]) == tmp_path
    assert parsed(["--data-dir", "/other"]) == pathlib.Path("/other")
    monkeypatch.delenv("KDR_DATA_DIR")
    assert parsed([], required=False) is None
    with pytest.raises(SystemExit):
        parsed([])
    assert "required: --data-dir" in capsys.readouterr().err


@pytest.mark.parametrize("find", ["ml_100k", "prepared"])
@pytest.mark.parametrize("given", ["a folder", None])
def test_another_folder_is_an_error_with_the_rule(find, given, tmp_path):
    folder = given and tmp_path
    with pytest.raises(SystemExit, match="must name the folder that holds"):
        getattr(movielens_folder, find)(folder)
