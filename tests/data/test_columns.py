"""Columns as people have them: the right values, or an error of ours."""

import collections
import decimal

import numpy as np
import pytest

from keras_dp_retrieval.data.columns import MAX_ID_LENGTH, id_column
from keras_dp_retrieval.data.dataset import RetrievalDataset
from keras_dp_retrieval.data.float_columns import rating_column
from keras_dp_retrieval.data.raw_data import RawRatings
from keras_dp_retrieval.data.vocabulary import Vocabulary

NAN = float("nan")


def columns_of_libraries(values):
    """The same column as each library has it, by the library's name."""
    jax_numpy = pytest.importorskip("jax.numpy")
    tf = pytest.importorskip("tensorflow")
    pandas = pytest.importorskip("pandas")
    pyarrow = pytest.importorskip("pyarrow")
    made = {
        "list": list(values),
        "tuple": tuple(values),
        "deque": collections.deque(values),
        "NumPy": np.array(values),
        "objects": np.array(values, object),
        "Series": pandas.Series(values),
        "Index": pandas.Index(values),
        "Categorical": pandas.Series(values, dtype="category"),
        "Arrow": pyarrow.array(values),
        "chunked": pyarrow.chunked_array([values]),
    }
    if isinstance(values[0], str):
        made["StringDType"] = np.array(values, np.dtypes.StringDType())
        made["string"] = pandas.Series(values, dtype="string")
    else:
        made["Int64"] = pandas.Series(values, dtype="Int64")
        made["uint8"] = np.array(values, np.uint8)
        made["range"] = range(values[0], values[-1] + 1)
        made["jax"] = jax_numpy.array(values)
        made["tf"] = tf.constant(values)
        made["0-d"] = [np.array(value) for value in values]
        made["scalars"] = [np.int16(value) for value in values]
    return made


@pytest.mark.parametrize("values", [[7, 8, 9], ["b", "a", "ccc"]])
def test_ids_of_every_library_are_the_same(values):
    for library, column in columns_of_libraries(values).items():
        ids = id_column("ids", column)
        assert ids.tolist() == values, library
        assert ids.dtype.kind == ("i" if values == [7, 8, 9] else "U"), library


def columns_with_a_gap():
    """Columns whose second entry is missing."""
    pandas = pytest.importorskip("pandas")
    pyarrow = pytest.importorskip("pyarrow")
    return {
        "NaN among strings": ["a", NAN, "b"],
        "None among strings": ["a", None, "b"],
        "None among numbers": [1, None, 2],
        "NaN among numbers": [1, NAN, 2],
        "NaN of NumPy": np.array([1, np.nan, 2]),
        "NaN of float32": np.array([1, np.nan, 2], "float32"),
        "a decimal": [1, decimal.Decimal("nan"), 2],
        "NaT": ["a", pandas.NaT, "b"],
        "NaT of NumPy": [1, np.datetime64("NaT"), 2],
        "NA": ["a", pandas.NA, "b"],
        "Int64": pandas.Series([1, None, 2], dtype="Int64"),
        "string": pandas.Series(["a", None, "b"], dtype="string"),
        "category": pandas.Series(["a", None, "b"], dtype="category"),
        "Arrow": pyarrow.array([1, None, 2]),
        "Arrow strings": pyarrow.array(["a", None, "b"]),
        "masked": np.ma.array([1, 5, 2], mask=[0, 1, 0]),
        "masked strings": np.ma.array(["a", "x", "b"], mask=[0, 1, 0]),
        "masked entry": [1, np.ma.masked, 2],
    }


def test_missing_ids_are_refused_and_the_row_is_named():
    for case, column in columns_with_a_gap().items():
        with pytest.raises(ValueError) as raised:
            RetrievalDataset.from_interactions(column, [1, 2, 3])
        message = str(raised.value)
        assert "`user_ids` must not have missing values" in message, case
        assert "Received 1, the first in row 1" in message, case


def test_a_mask_that_hides_nothing_is_no_matter():
    ids = np.ma.array([3, 4], mask=[False, False])
    assert id_column("ids", ids).tolist() == [3, 4]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, "1", 2], r"mixture of: \['int', 'str'\].* row 0 and '1' in row 1"),
        (np.array(["a", 2], object), "mixture"),
        ([True, 2], "mixture"),
        ([1, 2.0], "mixture"),
        ([True, False], "of type bool"),
        (np.array([True]), "of type bool"),
        ([1.0, 2.0], r"such as 1\.0.*astype\('int64'\)"),
        (np.array([1.0, 2.0]), r"such as 1\.0.*astype\('int64'\)"),
        ([b"a", b"b"], r"Decode them: `\[one\.decode\(\)"),
        (np.array([b"a"]), "Decode them"),
        (["a", "a\0"], r"NUL character.*'a\\x00' in row 1"),
        ([1, 2**63], r"64 bits .*9223372036854775808 in row 1.*as strings"),
        (np.array([2**64 - 1], np.uint64), "64 bits"),
        ([1, -(10**30)], "64 bits"),
        (np.array(["2020-01-01"], "M8[D]"), "whole numbers or strings"),
        ([[1, 2], [3]], r"one-dimensional.*list in row 0, \[1, 2\]"),
        ([[1], [2]], "one-dimensional"),
        ([("a", "b")], "one-dimensional"),
        (np.ones((2, 2), int), r"one-dimensional. Received: shape \(2, 2\)"),
        (np.ma.ones((2, 2), int), "one-dimensional"),
        ({"a": 1}, r"one-dimensional.*type dict.*`list\(ids\)`"),
        ({1, 2}, "type set"),
        ((i for i in [1, 2]), "type generator"),
        ("ab", "type str"),
        (5, "type int"),
        (np.int64(5), "type int64"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_column_of_ids_is_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        id_column("ids", ids)


def test_only_what_is_written_differently_has_another_row():
    # A NUL inside stays; NumPy cuts them off at the end alone.
    ids = ["a", "a\0b", "A", " a", "á", "a\u0301"]
    assert Vocabulary.from_ids(ids).num_rows == len(ids) + 1


def test_one_long_id_is_refused_before_it_widens_a_column():
    # In an array of strings, these would take 200 GB.
    ids = ["a"] * 1_000_000 + ["x" * 50_000]
    message = r"at most 256 .* Received: 50,000 in row 1000000.*stray quote"
    with pytest.raises(ValueError, match=message):
        id_column("ids", ids)
    with pytest.raises(ValueError, match=message):
        RetrievalDataset.from_interactions([1] * len(ids), ids)
    longest = "x" * MAX_ID_LENGTH
    assert id_column("ids", ["a", longest]).tolist() == ["a", longest]
    with pytest.raises(ValueError, match="Received: 257 in row 0"):
        id_column("ids", np.array([longest + "x"]))


def test_an_array_wider_than_its_ids_is_made_narrow():
    ids = id_column("ids", np.array(["a", "bc"], "U5000"))
    assert ids.tolist() == ["a", "bc"]
    assert ids.dtype.itemsize <= 4 * MAX_ID_LENGTH


def test_looking_up_a_long_id_needs_no_wide_column():
    vocabulary = Vocabulary.from_ids(["a", "b"])
    with pytest.raises(ValueError, match=r"at most 256 .* in row 100000"):
        vocabulary.rows(["a"] * 100_000 + ["x" * 1_000_000])
    with pytest.raises(ValueError, match="at most 256"):
        vocabulary.extended(["x" * 1_000_000])


def test_a_saved_vocabulary_of_longer_ids_is_read_and_looked_up():
    ids = np.array(["x" * 300, "y"])
    vocabulary = Vocabulary(ids)
    assert vocabulary.rows(["y", "x" * 300, "z"]).tolist() == [2, 1, 0]


@pytest.mark.parametrize("ids", [["b", NAN], ["b", 1], ["b\0"], [b"b"]])
def test_a_look_up_converts_nothing_either(ids):
    with pytest.raises(ValueError, match="`ids` must"):
        Vocabulary.from_ids(["nan", "b", "1"]).rows(ids)


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        (3.0, r"`ratings` must be one-dimensional.*`\[ratings\]`"),
        (np.float32(3), "one-dimensional"),
        ([[3], [4]], r"must be numbers. Received: \[3\] in row 0"),
        (np.ones((2, 1)), "one-dimensional"),
        (np.ma.array([3, 4], mask=[0, 1]), "missing values.* row 1"),
        ([3, None], "missing values.* row 1"),
        ([3, NAN], r"finite numbers.* Received 1 .* in row 1: nan"),
        ([3, 1e39], r"finite numbers, also as float32.* row 1: 1e\+39"),
        ([3, 10**400], "must be numbers"),
        (["3", "4"], "must be numbers. Received: '3' in row 0"),
        (np.array(["3", "4"]), "must be numbers. Received: '3' in row 0"),
        ([3, "4"], "must be numbers. Received: '4' in row 1"),
        ([3 + 1j, 4], "must be numbers"),
        (np.array([3 + 1j, 4]), "must be numbers"),
        (np.array([3, 4], "M8[s]"), "must be numbers"),
        ({1: 3, 2: 4}, "one-dimensional"),
    ],
)
def test_what_is_no_column_of_ratings_is_refused(ratings, message):
    with pytest.raises(ValueError, match=message):
        RawRatings([1, 2], [1, 2], ratings)


def test_ratings_of_every_library_are_the_same():
    for library, column in columns_of_libraries([1, 2, 3]).items():
        assert rating_column(column).tolist() == [1, 2, 3], library
    decimals = [decimal.Decimal("1.5"), decimal.Decimal(2)]
    assert rating_column(decimals).tolist() == [1.5, 2]
    assert rating_column([True, False]).tolist() == [1, 0]


def test_missing_ratings_name_their_row():
    for case, column in columns_with_a_gap().items():
        if "strings" in case or case in ("NaT", "NA", "string", "category"):
            continue
        with pytest.raises(ValueError, match=r"Received 1.* in row 1") as error:
            rating_column(column)
        assert "`ratings` must" in str(error.value), case
