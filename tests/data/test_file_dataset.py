"""What follows from a file where nobody said it; titles and ids from files."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from keras_dp_retrieval.data.file_dataset import FileReading, dataset_from_file
from keras_dp_retrieval.data.readers.id_files import read_user_ids
from keras_dp_retrieval.data.readers.text_conditions import (
    parse_conditions,
    typed_conditions,
)
from keras_dp_retrieval.data.readers.title_files import read_titles


def columns(**more):
    users = [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    return {"user": users, "item": [7, 8, 9, 7, 8, 9, 7, 8, 9, 7], **more}


def write(path, table: dict):
    """A table as Parquet, or as CSV by whatever the path ends in."""
    if path.suffix == ".parquet":
        parquet.write_table(pa.table(table), path)
        return path
    lines = [table, *zip(*table.values(), strict=True)]
    text = "\n".join(",".join(map(str, line)) for line in lines) + "\n"
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt") as file:
        file.write(text)
    return path


def read(path, **options):
    reading = {
        name: options.pop(name)
        for name in list(options)
        if name in FileReading.__dataclass_fields__
    }
    return dataset_from_file(path, FileReading(**reading), **options)


# The split and the ratings


@pytest.mark.filterwarnings("ignore:5 users with fewer than 3 interactions")
@pytest.mark.parametrize(
    ("times", "split", "reason"),
    [
        (None, "random", "no timestamps"),
        ([5] * 10, "random", "all timestamps are the same"),
        (list(range(10)), "by_time", "there are timestamps"),
    ],
)
def test_the_split_follows_from_the_timestamps(tmp_path, times, split, reason):
    more = {} if times is None else {"time": times}
    data = read(write(tmp_path / "own.csv", columns(**more)))
    assert data.split == split and reason in data.description
    asked = read(tmp_path / "own.csv", split="leave_last_out")
    assert asked.split == "leave_last_out" and reason not in asked.description


def test_columns_that_may_be_timestamps_are_named(tmp_path):
    path = write(tmp_path / "own.csv", columns(heard=range(10), hours=[1] * 10))
    said = "no timestamps found among the other columns, ['heard', 'hours']"
    assert said in read(path).description
    for known in (
        read(path, timestamp_column="heard"),
        read(path, timestamp_column="none"),
    ):
        assert "no timestamps found" not in known.description
    for name in ("Played At", "when"):
        path = write(tmp_path / "played.csv", columns(**{name: range(10)}))
        found = read(path)
        assert found.split == "by_time"
        assert f"timestamp_column={name!r}" in found.description


@pytest.mark.filterwarnings("ignore:.*older than the newest")
def test_times_that_are_not_to_be_read_split_nothing(tmp_path):
    path = write(tmp_path / "own.csv", columns(time=list(range(10))))
    data = read(path, timestamp_column="none")
    assert data.split == "random" and data.leakage.num_before_train_end is None


@pytest.mark.parametrize(
    ("ratings", "given", "scale"),
    [
        ([1, 2, 3, 4, 5] * 2, None, (1, 5)),
        ([2, 3, 3, 4, 4] * 2, None, (1, 5)),
        ([0.5, 2, 3, 4, 5] * 2, None, (0.5, 5)),
        ([0, 20, 30, 40, 90] * 2, None, (0, 90)),
        ([0, 20, 30, 40, 90] * 2, (0, 100), (0, 100)),
        ([3] * 10, (1, 5), (1, 5)),
    ],
)
def test_the_scale_follows_from_the_ratings(tmp_path, ratings, given, scale):
    path = write(tmp_path / "own.csv", columns(stars=ratings))
    data = read(path, rating_range=given)
    assert data.rating_range == scale
    assert data.ratings("train").ratings is not None


def test_ratings_that_are_all_the_same_are_left_out_and_said(tmp_path):
    path = write(tmp_path / "own.csv", columns(stars=[3] * 10))
    data = read(path)
    assert data.ratings("train").ratings is None
    assert "ratings left out, as all are 3" in data.description


# Where it comes from


def test_what_is_known_of_a_file_reads_the_same_rows_again(tmp_path):
    table = columns(event=["buy", "see"] * 5, stars=[0, 9] * 5)
    path = write(tmp_path / "own.csv.gz", table)
    first = read(path, conditions=(("event", "=", "buy"),), repeated="last")
    known = json.loads(json.dumps(first.fingerprint))
    assert known["file"]["name"] == "own.csv.gz"
    assert str(tmp_path) not in json.dumps(known)
    reading = FileReading.of({"repeated": None}, otherwise=known["file"])
    again = dataset_from_file(path, reading, seed=known["seed"])
    assert again.fingerprint == first.fingerprint
    told = FileReading.of({"repeated": "keep"}, otherwise=known["file"])
    assert told.repeated == "keep" and told.conditions == reading.conditions
    # So does a copy that is divided anew.
    assert first.with_validation_in_train().fingerprint["file"] == known["file"]


def test_folders_are_parquet_with_their_names_as_columns(tmp_path):
    for event in ("buy", "see"):
        (tmp_path / f"event={event}").mkdir()
        write(tmp_path / f"event={event}" / "0.parquet", columns())
    data = read(tmp_path, conditions=(("event", "=", "buy"),))
    assert "filters kept 10 of 20 rows" in data.description


# Conditions


@pytest.mark.parametrize(
    ("text", "csv", "in_parquet"),
    [
        ("event=buy", ("event", "==", "buy"), ("event", "==", "buy")),
        ("event==buy", ("event", "==", "buy"), ("event", "==", "buy")),
        ("n=7", ("n", "==", "7"), ("n", "==", 7)),
        ("n!=7,8", ("n", "not in", ["7", "8"]), ("n", "not in", [7, 8])),
        ("n>=7", ("n", ">=", 7), ("n", ">=", 7)),
        ("x<0.5", ("x", "<", 0.5), ("x", "<", 0.5)),
        ("event=a=b", ("event", "==", "a=b"), ("event", "==", "a=b")),
    ],
)
def test_values_are_what_their_columns_hold(tmp_path, text, csv, in_parquet):
    table = {"event": ["buy"], "n": [7], "x": [0.25]}
    for suffix, expected in ((".csv", csv), (".parquet", in_parquet)):
        path = write(tmp_path / f"own{suffix}", table)
        conditions = parse_conditions("--filter", [text])
        assert typed_conditions(path, conditions) == [expected]


@pytest.mark.parametrize("text", ["", "event", "=buy", "event=", "event~buy"])
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(ValueError, match="such as event=purchase"):
        parse_conditions("--filter", [text])


def test_values_of_another_type_are_refused(tmp_path):
    path = write(tmp_path / "own.parquet", {"n": [7]})
    with pytest.raises(ValueError, match=r"'n' holds int64.*'many'"):
        typed_conditions(path, [("n", "<", "many")])


# Titles


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_titles_are_of_the_candidates_alone(tmp_path, suffix):
    table = {"id": [7, 8, 10], "Name": ["seven", "eight", "ten"]}
    path = write(tmp_path / f"titles{suffix}", table)
    titles, note = read_titles(path, np.array([7, 8, 9]))
    assert titles == {7: "seven", 8: "eight"}
    assert note == "titles of 2 of 3 candidates"
    # One file may have whole numbers alone, and the other not.
    titles, _ = read_titles(path, np.array(["7", "x"]))
    assert titles == {"7": "seven"}


def test_the_column_of_ids_may_be_called_as_in_the_interactions(tmp_path):
    table = {"sku": [7, 8], "id": [0, 0], "title": ["seven", ""]}
    path = write(tmp_path / "titles.csv", table)
    titles, _ = read_titles(path, np.array([7, 8]), candidate_column="sku")
    assert titles == {7: "seven"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"id": [7, 7], "title": ["a", "b"]}, r"two for 7: 'a' and 'b'"),
        ({"id": [1], "title": ["a"]}, r"ids such as 1, and .* such as 7"),
        ({"id": ["x"], "title": ["a"]}, r"ids such as 'x', and .* such as 7"),
        ({"key": [7], "title": ["a"]}, r"Missing: \['candidate_id'\]"),
        ({"id": [7], "text": ["a"]}, r"Missing: \['title'\]"),
        ({"id": [7], "name": ["a"], "title2": ["b"]}, None),
        ({"id": [7], "Title": ["a"], "name": ["b"]}, r"several: .*'Title'"),
    ],
)
def test_titles_that_do_not_fit_are_refused(tmp_path, table, message):
    path = write(tmp_path / "titles.csv", table)
    if message is None:
        assert read_titles(path, np.array([7]))[0] == {7: "a"}
        return
    with pytest.raises(ValueError, match=message):
        read_titles(path, np.array([7]))


def test_titles_of_parquet_are_texts(tmp_path):
    path = write(tmp_path / "t.parquet", {"id": [7], "title": [[1, 2]]})
    with pytest.raises(ValueError, match=r"'title' .* must hold texts"):
        read_titles(path, np.array([7]))


# Ids


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7\n8\n", [7, 8]),
        ("7\n\n8", [7, 8]),
        ("\ufeffann\r\nbob\r\n", ["ann", "bob"]),
        ("007\n8\n", ["007", "8"]),
        ("userId\n7\n", [7]),
        ("n;customer\n1;ann\n2;bob\n", ["ann", "bob"]),
    ],
)
def test_ids_are_one_a_line_or_a_column(tmp_path, text, expected):
    path = tmp_path / "users.txt"
    path.write_bytes(text.encode())
    assert read_user_ids(path).tolist() == expected


def test_ids_of_parquet_are_a_column(tmp_path):
    path = write(tmp_path / "u", {"n": [1]}).with_suffix(".parquet")
    write(path, {"buyer": ["b", "a"], "user_id": [1, 2]})
    assert read_user_ids(path).tolist() == [1, 2]
    assert read_user_ids(path, "buyer").tolist() == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("", "auto", "at least one id"),
        ("a,b\n1,2\n", "auto", r"or one id a line. .*\['a', 'b'\]"),
        ("a,b\n1,2\n", "c", r"Missing: \['c'\]"),
        ("user\n", "auto", "at least one id"),
    ],
)
def test_files_without_ids_are_refused(tmp_path, text, column, message):
    path = tmp_path / "users.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_user_ids(path, column)
