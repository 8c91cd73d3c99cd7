"""Features: read from anywhere, encoded as the train part has them."""

import datetime
import decimal
import json

import keras
import numpy as np
import pandas as pd
import polars
import pyarrow
import pyarrow.parquet
import pytest

from keras_dp_retrieval.data.dataset import RetrievalDataset
from keras_dp_retrieval.data.features import (
    EncodedFeatures,
    Features,
    FeatureSchema,
    feature_arrays,
)
from keras_dp_retrieval.data.movielens import MovieLensRetrievalDataset
from keras_dp_retrieval.data.vocabulary import Vocabulary

ITEMS = {
    "item_id": [30, 10, 20],
    "colour": ["red", "blue", "red"],
    "tags": ["new|cheap", None, "cheap"],
    "price": [3.0, None, 1.0],
    "title": ["The red fox", "A blue fox jumps", "The hat of doom"],
    "since": ["2026-01-03", "2026-01-01", None],
    "in_stock": [True, False, None],
}
KINDS = {
    "colour": "categorical",
    "tags": "multi_label",
    "price": "numeric",
    "title": "text",
    "since": "date",
    "in_stock": "categorical",
}


def dates(values):
    return [value and datetime.date.fromisoformat(value) for value in values]


def as_source(kind, tmp_path):
    items = {**ITEMS, "since": dates(ITEMS["since"])}
    table = pyarrow.table(items)
    if kind == "dict":
        return items
    if kind == "arrow":
        return table
    if kind == "pandas":
        return pd.DataFrame(items)
    if kind == "polars":
        return polars.DataFrame(items)
    path = tmp_path / f"items.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(table, path)
    elif kind == "csv":
        table.to_pandas().to_csv(path, index=False)
    else:
        table.to_pandas().to_csv(tmp_path / "items.csv.gz", index=False)
        path = tmp_path / "items.csv.gz"
    return path


@pytest.mark.parametrize(
    "kind", ["dict", "arrow", "pandas", "polars", "parquet", "csv", "gz"]
)
def test_every_source_gives_the_same_features(kind, tmp_path):
    table = Features(as_source(kind, tmp_path)).read("candidate")
    assert table.ids.tolist() == [30, 10, 20]
    assert table.kinds == KINDS
    encoded = FeatureSchema.fit(table).encode(table.columns)
    # By hand: values in order have the indices 1 to n, and 0 is missing.
    np.testing.assert_array_equal(encoded["colour"], [2, 1, 2])
    np.testing.assert_array_equal(encoded["tags"], [[2, 1], [0, 0], [1, 0]])
    np.testing.assert_allclose(encoded["price"], [1, 0, -1])
    # Words of two titles or more: fox, the.
    np.testing.assert_array_equal(encoded["title"], [[2, 1], [1, 0], [2, 0]])
    np.testing.assert_allclose(encoded["since"], [1, -1, 0])
    np.testing.assert_array_equal(encoded["in_stock"], [2, 1, 0])


def test_ids_of_csv_files_keep_their_zeros(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text("item_id,colour\n007,red\n7,blue\n")
    assert Features(path).read("candidate").ids.tolist() == ["007", "7"]


@pytest.mark.parametrize("id_column", ["auto", "item_id"])
def test_ids_of_parquet_files_are_what_they_are(id_column, tmp_path):
    path = tmp_path / "items.parquet"
    columns = {"item_id": ["1", "2"], "colour": ["red", "blue"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    table = Features(path, id_column=id_column).read("candidate")
    assert table.ids.tolist() == ["1", "2"]


@pytest.mark.parametrize(
    "kind",
    [
        pyarrow.list_(pyarrow.string()),
        pyarrow.large_list(pyarrow.string()),
        pyarrow.list_(pyarrow.string(), 2),
    ],
)
def test_what_stands_behind_a_missing_list_counts_nowhere(kind):
    # Lists of a fixed size have values there.
    lists = pyarrow.array([["z", "z"], None, ["b", "a"]], kind)
    columns = {"item_id": [1, 2], "tags": lists.slice(1)}
    table = Features(columns).read("candidate")
    schema = FeatureSchema.fit(table)
    assert schema.encoders["tags"].values == ["a", "b"]
    encoded = schema.encode(table.columns)["tags"]
    np.testing.assert_array_equal(np.sort(encoded), [[0, 0], [1, 2]])


def test_a_namibian_is_no_missing_value(tmp_path):
    path = tmp_path / "users.csv"
    path.write_text("user_id,country\n1,NA\n2,\n")
    table = Features(path).read("user")
    assert table.columns["country"].to_pylist() == ["NA", None]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2, 3], "numeric"),
        ([1.5, None, 2.0], "numeric"),
        (["1", "2", "3"], "categorical"),
        ([True, False, True], "categorical"),
        ([["a"], [], ["a", "b"]], "multi_label"),
        (["a|b", "c", None], "multi_label"),
        (["one long title", "another title", "a third one"], "text"),
        (["New York", "New York", "Berlin"], "categorical"),
        ([datetime.datetime(2026, 1, 1), None, None], "date"),
        ([None, None, None], "categorical"),
    ],
)
def test_kinds_are_inferred(values, kind):
    source = {"user_id": [1, 2, 3], "column": values}
    assert Features(source).read("user").kinds == {"column": kind}


def test_a_stated_kind_counts():
    source = {"user_id": [1, 2, 3], "zip": [10115, 10115, 80331]}
    table = Features(source, kinds={"zip": "categorical"}).read("user")
    encoded = FeatureSchema.fit(table).encode(table.columns)
    assert encoded["zip"].tolist() == [1, 1, 2]


def test_numbers_of_pandas_with_gaps_are_the_categories_they_were():
    with_gap = pd.DataFrame({"user_id": [1, 2, 3], "zip": [5, None, 7]})
    features = Features(with_gap, kinds={"zip": "categorical"}).read("user")
    schema = FeatureSchema.fit(features)
    assert schema.encoders["zip"].values == ["5", "7"]
    assert schema.encode({"zip": [7, 5, 6]})["zip"].tolist() == [2, 1, 0]


def test_unknown_values_and_missing_columns_are_0():
    table = Features(ITEMS).read("candidate")
    encoded = FeatureSchema.fit(table).encode(
        {"colour": ["green", "blue"], "tags": [None, "old|new|new"]}
    )
    assert encoded["colour"].tolist() == [0, 1]
    # "old" is not known, and a label counts once.
    assert encoded["tags"].tolist() == [[0], [2]]
    assert encoded["price"].tolist() == [0, 0]
    assert encoded["title"].tolist() == [[0], [0]]


def test_encoders_learn_from_the_train_part_alone():
    table = Features(ITEMS).read("candidate")
    vocabulary = Vocabulary.from_ids([10, 20, 30, 40])
    is_trained = np.array([False, False, True, True, True])  # 20, 30 and 40.
    found = EncodedFeatures.of(table, vocabulary, is_trained)
    assert found.schema.encoders["colour"].values == ["red"]
    assert found.schema.encoders["price"].mean == 2.0
    # Rows: unknown, 10, 20, 30, 40 (which has no features).
    assert found.columns["colour"].tolist() == [0, 0, 1, 1, 0]
    assert found.columns["tags"].tolist() == [
        *([0, 0], [0, 0], [1, 0], [2, 1], [0, 0])
    ]
    np.testing.assert_allclose(found.columns["price"], [0, 0, -1, 1, 0])
    assert found.is_known.tolist() == [False, True, True, True, False]


def test_words_of_ascii_texts_are_those_of_all_texts(monkeypatch):
    rng = np.random.default_rng(0)
    letters = np.array([*"aB7 _-\n|\0Zz'."])
    texts = [
        "".join(letters[rng.integers(0, len(letters), length)])
        for length in rng.integers(0, 12, 500)
    ]
    texts[:8] = [None, "", " ", "Ab", "c d", None, "-", "E"]
    for values in (texts, texts[:1], [], ["", None]):
        column = pyarrow.chunked_array(
            [pyarrow.array(["cut off", *values], pyarrow.string())[1:]]
        )
        quick = feature_arrays.words("a", column)
        with monkeypatch.context() as patch:
            patch.setattr(feature_arrays, "ascii_words", lambda texts: None)
            slow = feature_arrays.words("a", column)
        np.testing.assert_array_equal(quick.rows, slow.rows)
        assert quick.texts.to_pylist() == slow.texts.to_pylist()
        assert quick.num_rows == slow.num_rows
    other = pyarrow.chunked_array([["Straße 5", "ÉTÉ"]])
    found = feature_arrays.words("a", other).texts.to_pylist()
    assert found == ["straße", "5", "été"]


def test_what_a_row_has_twice_counts_once_where_it_came_first():
    lists = [["b", "a", "b"], [], ["a"], ["c", "c", "a", "c"]]
    column = pyarrow.chunked_array([lists])
    texts = feature_arrays.labels("a", column)
    found = feature_arrays.padded_indices(texts, ["a", "b", "c"])
    assert found.tolist() == [[2, 1], [0, 0], [1, 0], [3, 1]]
    assert feature_arrays.frequent(texts, 2, None) == ["a"]


def test_text_knows_the_most_frequent_words(monkeypatch):
    from keras_dp_retrieval.data.features import column_encoders

    monkeypatch.setattr(column_encoders, "MOST_WORDS", 2)
    source = {
        "item_id": [1, 2, 3],
        "text": ["b a, c!", "A b C d", "Ünder c d b"],
    }
    table = Features(source, kinds={"text": "text"}).read("candidate")
    # b and c are in three rows, a and d in two.
    assert FeatureSchema.fit(table).encoders["text"].values == ["b", "c"]


def test_bins_of_numbers_hold_about_equally_many():
    years = [1990] * 2 + [1994] * 40 + [1995] * 30 + [1996] * 28
    table = Features({"item_id": np.arange(100), "year": years})
    encoder = FeatureSchema.fit(table.read("candidate")).encoders["year"]
    boundaries = np.array(encoder.boundaries) * encoder.stddev + encoder.mean
    # Bins of 20 or more: two of 1990 are too few for one of their own.
    np.testing.assert_allclose(boundaries, [1994.5, 1995.5])
    table = Features({"item_id": np.arange(640), "x": np.arange(640.0)})
    encoder = FeatureSchema.fit(table.read("candidate")).encoders["x"]
    assert len(encoder.boundaries) == 31
    counts = np.histogram(
        encoder.encode("x", table.read("candidate").columns["x"]),
        [-np.inf, *encoder.boundaries, np.inf],
    )[0]
    assert counts.tolist() == [20] * 32


def test_rare_words_of_many_rows_are_left_out():
    rows = ["often rarely"] * 9 + ["often"] * 991
    table = Features(
        {"item_id": range(1000), "text": rows}, kinds={"text": "text"}
    ).read("candidate")
    assert FeatureSchema.fit(table).encoders["text"].values == ["often"]


def test_a_constant_column_of_numbers_is_0():
    table = Features({"user_id": [1, 2], "x": [0.1, 0.1]}).read("user")
    encoded = FeatureSchema.fit(table).encode({"x": [0.1, 1.1]})
    np.testing.assert_allclose(encoded["x"], [0, 1], atol=1e-6)


def test_a_schema_is_plain_json_and_encodes_the_same():
    table = Features(ITEMS).read("candidate")
    schema = FeatureSchema.fit(table)
    text = json.dumps(keras.saving.serialize_keras_object(schema))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    before, after = (one.encode(table.columns) for one in (schema, again))
    for name, column in before.items():
        np.testing.assert_array_equal(after[name], column)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ({"item_id": [1, 1], "a": [1, 2]}, {}, "one row for each id.* 1, and"),
        ({"item_id": [1, None], "a": [1, 2]}, {}, "missing|in row 1"),
        ({"sku": [1], "a": [1]}, {}, "id_column="),
        ({"item_id": [1]}, {}, "must have a column beside the ids"),
        ({"item_id": [], "a": []}, {}, "at least one row"),
        ({"item_id": [1], "a": [1, 2]}, {}, "1 ids, and 2 entries of 'a'"),
        ({"item_id": [1], "user_id": [1]}, {}, "must not be called"),
        ({"item_id": [1, 2], "a": [1, "x"]}, {}, "values of one type.*'a'"),
        ({"item_id": [1], "a": [1]}, {"columns": ["b"]}, r"Missing: \['b'\]"),
        ({"item_id": [1], "a": [1]}, {"kinds": {"b": "text"}}, "columns that"),
        ({"item_id": [1], "a": [1]}, {"kinds": {"a": "blob"}}, "categorical"),
        (5, {}, "data frame of pandas"),
        ("no_such.csv", {}, "There is no file"),
    ],
)
def test_what_is_no_table_of_features_is_refused(source, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Features(source, **options).read("candidate")


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("numeric", ["1", "two"], "'a' must hold numbers"),
        ("numeric", [1.0, np.inf], "finite numbers. Received: inf in row 1"),
        ("date", ["2026-01-01", "soon"], "'a' must hold dates"),
        ("multi_label", [1, 2], "'a' must hold lists of labels"),
        ("text", [1, 2], "'a' must hold texts"),
    ],
)
def test_values_of_another_kind_are_refused(kind, values, message):
    table = Features({"item_id": [1, 2], "a": values}, kinds={"a": kind}).read(
        "candidate"
    )
    with pytest.raises(ValueError, match=message):
        FeatureSchema.fit(table).encode(table.columns)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "items.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"items\.parquet.*Arrow says"):
        Features(path).read("candidate")


def small_data(**options):
    return RetrievalDataset(
        [1, 1, 2, 2, 3, 3],
        [10, 20, 20, 30, 10, 30],
        split="leave_last_out",
        validation_fraction=0,
        candidate_features={
            "item_id": [10, 20, 30, 40],
            "colour": ["red", "blue", "red", "blue"],
        },
        **options,
    )


def test_a_candidate_with_features_alone_is_a_candidate():
    data = small_data()
    assert data.candidate_vocabulary.ids.tolist() == [10, 20, 30, 40]
    assert data.candidate_counts("train")[4] == 0
    assert data.candidate_features.columns["colour"].tolist()[4] == 1
    assert data.user_features is None


def test_features_survive_the_config_of_a_data_set():
    data = small_data(user_features={"user_id": [1, 3], "age": [20, 40]})
    text = json.dumps(keras.saving.serialize_keras_object(data))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    for side in ("user_features", "candidate_features"):
        before, after = getattr(data, side), getattr(again, side)
        for name, column in before.columns.items():
            np.testing.assert_array_equal(after.columns[name], column)


def test_dates_survive_json():
    zone = datetime.timezone(datetime.timedelta(hours=5))
    features = Features(
        {
            "user_id": [1, 2, 3],
            "day": [datetime.date(2026, 1, 1), None, datetime.date(2026, 1, 3)],
            "moment": [datetime.datetime(2026, 1, d, 3) for d in (1, 2, 4)],
            "zoned": [
                datetime.datetime(2026, 1, d, 3, tzinfo=zone) for d in (1, 2, 4)
            ],
            "price": [decimal.Decimal("1.5"), decimal.Decimal(2), None],
        }
    )
    table = features.read("user")
    expected = FeatureSchema.fit(table).encode(table.columns)
    for before in (features, Features(table)):
        config = json.loads(json.dumps(before.get_config()))
        again = Features.from_config(config).read("user")
        assert again.kinds == table.kinds
        encoded = FeatureSchema.fit(again).encode(again.columns)
        for name, column in expected.items():
            np.testing.assert_allclose(encoded[name], column, atol=1e-6)


def test_ids_of_features_are_of_the_type_of_the_others():
    with pytest.raises(ValueError, match="ids of the type of the inter"):
        small_data(user_features={"user_id": ["1", "2"], "age": [20, 40]})


def test_other_parts_have_encoders_of_their_own():
    data = RetrievalDataset(
        np.arange(40) % 8,
        np.arange(40) // 8,
        user_features={"user_id": range(8), "age": np.arange(8.0)},
        candidate_features={"item_id": range(5), "x": np.arange(5.0) ** 2},
        validation_fraction=0.5,
        split="by_time",
        timestamps=np.arange(40),
    )
    # Looked at before there is another, which must not have them too.
    before = data.candidate_features.schema.encoders["x"].mean
    all_of_it = data.with_validation_in_train()
    after = all_of_it.candidate_features.schema.encoders["x"].mean
    # Candidates come in the order of time, so more of them are in train.
    assert before < after


MOVIELENS = ("age", "gender", "occupation", "region")


def test_movielens_tells_the_same_from_both_sources(data_dir):
    files, tfds = (
        MovieLensRetrievalDataset(
            source=source, data_dir=data_dir / folder, features=True
        )._loaded
        for source, folder in (("files", "ml-100k"), ("tfds", "tfds"))
    )
    for side in ("user_features", "candidate_features"):
        one, other = getattr(files, side), getattr(tfds, side)
        order, others = np.argsort(one.ids), np.argsort(other.ids)
        np.testing.assert_array_equal(one.ids[order], other.ids[others])
        assert one.kinds == other.kinds
        for name in set(one.columns) - {"title", "year"}:
            assert (
                one.columns[name].take(order).to_pylist()
                == other.columns[name].take(others).to_pylist()
            ), name
    assert tuple(files.user_features.columns) == MOVIELENS
    first = {
        name: column[0].as_py()
        for name, column in files.candidate_features.columns.items()
    }
    assert first == {
        "genres": ["Animation", "Children", "Comedy"],
        "year": 1995.0,
        "title": "Toy Story",
    }


def test_synthetic_ratings_have_no_features():
    with pytest.raises(ValueError, match=r"features=True.*synthetic"):
        MovieLensRetrievalDataset(source="synthetic", features=True)
