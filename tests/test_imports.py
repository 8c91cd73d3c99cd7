"""The package layout: imports point down, and file names are unique."""

import ast
import collections
import os
import pathlib
import subprocess
import sys

import pytest

import keras_dp_retrieval

PACKAGE = pathlib.Path(keras_dp_retrieval.__file__).parent

# A module imports from layers below its own, or from its own folder.
LAYERS = {
    "_version": 0,
    "warning_categories": 0,
    "_checks": 0,
    "_garbage": 0,
    "_keras": 0.25,
    "_jax": 0.5,
    "_lookups": 0,
    "_random_state": 0,
    "distribution": 1,
    "compiled_programs": 1.25,
    "processes": 1.25,
    "agreement": 1.5,
    "data._tensorflow": 1,
    "data.batch_sources": 1.25,
    "data.arrow_texts": 0.25,
    "data.columns": 0,
    "data.encoded_ids": 0.5,
    "data.digests": 0,
    "data.features": 1.5,
    "data.features.feature_table": 0,
    "data.float_columns": 0.5,
    "data.interactions": 1,
    "data.orders": 0.75,
    "data.padding": 0,
    "data.ratings": 0.5,
    "data.raw_data": 1,
    "data.readers.column_names": 1.25,
    "data.readers.csv_columns": 0,
    "data.row_padding": 0.25,
    "data.sampled_users": 1,
    "data.timeline": 1.125,
    "data.timestamps": 0.5,
    "data.vocabulary": 1,
    "training": 2,
    "index": 2,
    "losses": 2,
    "towers": 2,
    "metrics": 3,
    "report": 2,
    "data": 3,
    "callbacks": 4,
    "model": 4,
    "recipe": 5,
    "serving": 5,
    "tuning": 5,
    "cli": 6,
    "__main__": 7,
    "__init__": 7,
    # Users of the package like any other: nothing of it imports them.
    "examples": 8,
}


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts)


def unit(module):
    """The entry of `LAYERS` that a module belongs to: itself, or a folder."""
    while module not in LAYERS:
        module = module.rpartition(".")[0]
    return module


def imported_modules(path):
    """Every absolute module name that a file imports, lazily or not."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = (
                    PACKAGE.parent / (inner.replace(".", "/") + ".py")
                ).exists() or (
                    PACKAGE.parent / inner.replace(".", "/")
                ).is_dir()
                yield inner if is_module else node.module


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_down(path):
    own = unit(module_name(path))
    for name in imported_modules(path):
        if not name.startswith("keras_dp_retrieval."):
            continue
        other = unit(name.removeprefix("keras_dp_retrieval."))
        assert other == own or LAYERS[other] < LAYERS[own], (
            f"{module_name(path)} imports {name}, which is not below it"
        )


def test_no_two_files_have_one_name():
    names = collections.Counter(path.name for path in FILES)
    for called in ("__init__.py", "__main__.py"):  # Of their folders.
        del names[called]
    twice = {name for name, count in names.items() if count > 1}
    assert not twice, [str(path) for path in FILES if path.name in twice]


def test_data_does_not_know_the_devices():
    names = {
        name
        for path in FILES
        if module_name(path).startswith("data.")
        for name in imported_modules(path)
    }
    assert not names & {
        "keras_dp_retrieval.agreement",
        "keras_dp_retrieval.distribution",
    }
    assert not any(name.startswith("keras_dp_retrieval._jax") for name in names)


@pytest.mark.parametrize(
    ("library", "home"),
    [("jax", "_jax"), ("tensorflow", "data"), ("keras_tuner", "tuning")],
)
def test_libraries_stay_in_their_folder(library, home):
    users = {
        module_name(path)
        for path in FILES
        for name in imported_modules(path)
        if name.split(".")[0] == library
    }
    # A program of its own, which is run where this package need not be.
    users.discard("serving.standalone_check")
    assert all(module.split(".")[0] == home for module in users), users


def test_import_pulls_in_nothing_heavy():
    # Keras itself imports some of them where it finds them.
    program = (
        "import sys, keras; before = set(sys.modules);"
        "import keras_dp_retrieval;"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "KERAS_BACKEND": "jax"},
    )
    added = {name.split(".")[0] for name in done.stdout.split()}
    assert "keras_dp_retrieval" in added
    heavy = {
        "tensorflow",
        "tensorflow_datasets",
        "keras_tuner",
        "matplotlib",
        "pandas",
        "tensorboard",
        "sklearn",
    }
    assert not added & heavy
