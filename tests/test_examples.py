"""The examples are short, use public names alone, and run as users run them."""

import ast
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval.examples import __main__ as listing

FOLDER = pathlib.Path(listing.__file__).parent
EXAMPLES = sorted(FOLDER.glob("[a-z]*.py"))
PACKAGE = "keras_dp_retrieval.examples"


def said(command, folder, **variables):
    """What a program prints that a user starts in a folder."""
    # The tests' eight devices are not what a user has.
    own = {
        name: value
        for name, value in os.environ.items()
        if name not in ("XLA_FLAGS", "NPROC")
    }
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**own, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def figure(name, text, column=-1):
    """The number in a column of the line that begins with a name."""
    line = re.search(rf"^(?:\[0\] )?{re.escape(name)} .*$", text, re.M)[0]
    return float(re.findall(r"\d[\d.]*", line)[column])


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_uses_public_names_alone(path):
    text = path.read_text()
    assert len(text.splitlines()) < 80
    tree = ast.parse(text)
    assert f"python -m {PACKAGE}.{path.stem}" in ast.get_docstring(tree)
    imported = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
        if "keras_dp_retrieval"
        in (alias.name, getattr(node, "module", alias.name))
        or alias.name.startswith("keras_dp_retrieval")
        or (getattr(node, "module", "") or "").startswith("keras_dp_retrieval")
    ]
    assert imported == ["keras_dp_retrieval"]
    names = re.findall(r"\bkdr\.(\w+)", text)
    assert names and set(names) <= set(kdr.__all__)
    assert not re.findall(r"\w\._\w+", text)


def test_the_list_has_a_line_for_each(capsys):
    listing.main()
    _, _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [p.stem for p in EXAMPLES]
    assert all(30 < len(line) <= 80 for line in lines)


@pytest.mark.slow
@pytest.mark.realdata
def test_movielens_by_time(data_dir, tmp_path):
    text = said(
        ["-m", f"{PACKAGE}.movielens_by_time"],
        tmp_path,
        TFDS_DATA_DIR=str(data_dir / "tfds"),
    )
    assert "older than the newest in train           0" in text
    assert "1 device (cpu)" in text
    ours, popular = (
        figure("warm_users_ndcg_at_10", text, column) for column in (-2, -1)
    )
    assert ours > popular
    assert "For user " in text


@pytest.mark.slow
def test_own_csv_makes_a_shop_and_then_reads_it(tmp_path):
    text = said(["-m", f"{PACKAGE}.own_csv"], tmp_path)
    assert "shop.csv is made up" in text
    assert "timestamp_column='date'" in text
    assert (tmp_path / "shop.csv").read_text().count("\n") == 12_001
    # 200 products, of which a list at random has 5 %.
    assert figure("recall_at_10", text) > 0.3
    assert "shop.keras answers the same: True" in text
    again = said(["-m", f"{PACKAGE}.own_csv", "shop.csv"], tmp_path)
    assert "made up" not in again
    assert figure("recall_at_10", again) == figure("recall_at_10", text)


@pytest.mark.slow
def test_cold_items_are_found_by_their_features(tmp_path):
    text = said(["-m", f"{PACKAGE}.cold_items"], tmp_path)
    alone, features = (
        figure("cold_candidates", text, column) for column in (-2, -1)
    )
    assert alone < 0.02 and features > 0.1
    # An eighth of 601 is poetry.
    assert figure("To a reader of poetry", text, -2) < 150


@pytest.mark.slow
def test_two_processes_train_and_one_writes(tmp_path):
    program = [sys.executable, "-m", f"{PACKAGE}.two_processes"]
    launch = ["-m", "keras_dp_retrieval", "launch", "--processes", "2", "--"]
    text = said([*launch, *program], tmp_path)
    for process in (0, 1):
        assert f"[{process}] Process {process} of 2 " in text
        assert figure(f"Process {process}:", text.replace(",", "")) > 9_000
    assert figure("recall_at_10", text) > 0.1  # At random: 0.02.
    load = (
        "import keras, keras_dp_retrieval;"
        "model = keras.saving.load_model('two_processes.keras');"
        "print(model.recommend(model.user_vocabulary.ids[:1], k=5)[0][0])"
    )
    listed = re.search(r"A list: \[(.*)\]", text)[1]
    found = re.findall(r"\d+", said(["-c", load], tmp_path))
    assert found == re.findall(r"\d+", listed)


@pytest.fixture
def short_folder():
    folder = tempfile.mkdtemp(prefix="pg")  # Sockets need a short path.
    yield pathlib.Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR")
def test_the_vector_database_answers_as_the_model(short_folder, monkeypatch):
    for name in ("pgserver", "psycopg"):
        pytest.importorskip(name, reason="needs pgserver and psycopg")
    import pgserver

    from keras_dp_retrieval.examples import vector_database

    try:
        server = pgserver.get_server(short_folder / "postgres")
    except (OSError, RuntimeError) as error:
        pytest.skip(f"the server did not start: {error}")
    program = ["-m", f"{PACKAGE}.vector_database", server.get_uri()]
    text = said(program, short_folder)
    assert figure("A scan", text) > 99.0
    assert figure("The index", text) > 90.0
    assert (short_folder / "served" / "manifest.json").exists()
    # Without an address it starts one in this folder, or takes that of it.
    monkeypatch.chdir(short_folder)
    with vector_database.connect(None) as database:
        assert database.execute("SELECT 1").fetchall() == [(1,)]
    server.cleanup()


def test_without_a_database_one_line_says_what_to_start(monkeypatch, tmp_path):
    from keras_dp_retrieval.examples import vector_database

    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SystemExit, match=r"pip install.*docker") as end:
        vector_database.connect(None)
    assert "\n" not in str(end.value)  # A text: the exit code is 1.
