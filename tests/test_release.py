"""What a release says of itself agrees with the rest of the repository."""

import configparser
import pathlib
import re

import keras_dp_retrieval as kdr
from keras_dp_retrieval.callbacks import run_output

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent


def declared():
    found = configparser.ConfigParser()
    found.read(CHECKOUT / "setup.cfg")
    return found


def test_the_changelog_begins_with_this_version():
    text = (CHECKOUT / "CHANGELOG.md").read_text()
    version, date = re.search(r"^## (\S+) \((.*)\)$", text, re.M).groups()
    assert version == kdr.__version__
    assert date == "unreleased" or re.fullmatch(r"\d{4}-\d\d-\d\d", date)


def test_the_classifiers_are_the_pythons_of_the_matrix():
    matrix = (CHECKOUT / ".ci" / "matrix").read_text()
    rows = set(re.findall(r"^ +row (3\.\d+) \1$", matrix, re.M))
    classifiers = declared()["metadata"]["classifiers"]
    assert rows == set(re.findall(r"Python :: (3\.\d+)$", classifiers, re.M))
    lowest = re.search(r"row lowest (3\.\d+)", matrix)[1]
    assert declared()["options"]["python_requires"] == f">={lowest}"
    assert min(rows) == lowest


def test_a_run_record_names_the_version_that_wrote_it():
    header = run_output.run_header(0, "model")
    assert header["versions"]["keras_dp_retrieval"] == kdr.__version__
