"""Ids are encoded once: the same ids and codes as `numpy.unique` gives."""

import numpy as np
import pyarrow as pa
import pytest

from keras_dp_retrieval.data.dataset import RetrievalDataset
from keras_dp_retrieval.data.encoded_ids import EncodedIds, encode_ids
from keras_dp_retrieval.data.vocabulary import Vocabulary


def check(values, expected):
    encoded = encode_ids("ids", values)
    ids, codes = np.unique(np.array(expected), return_inverse=True)
    assert encoded.ids.tolist() == ids.tolist()
    assert encoded.ids.dtype.kind == ids.dtype.kind
    assert encoded.codes.dtype == np.int32
    np.testing.assert_array_equal(encoded.codes, codes)
    assert encoded.decoded().tolist() == list(expected)


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 5), (1, 300), (-40, 40), (10**15, 10**15 + 99), (-(2**63), 2**63)],
)
def test_numbers_are_encoded_as_unique_does(low, high):
    rng = np.random.default_rng(0)
    numbers = rng.integers(low, high, size=1_000)
    check(numbers, numbers)
    ends = np.array([2**63 - 1, -(2**63), 0, 0])
    check(ends, ends)


def texts(num=500):
    rng = np.random.default_rng(1)
    some = ["b", "a", "", "é", "z\u0301", "日本", "😀", "B", "aa", "a\0b", "10"]
    return [some[i] for i in rng.integers(len(some), size=num)]


def test_strings_are_encoded_as_unique_does_from_any_library():
    pandas = pytest.importorskip("pandas")
    polars = pytest.importorskip("polars")
    words = texts()
    half = pa.array(words[:250]), pa.array(words[250:])
    for column in (
        words,
        np.array(words),
        np.array(words, object),
        pandas.Series(words),
        pandas.Series(words, dtype="category"),
        pandas.Series(words, dtype="string"),
        polars.Series(words),
        polars.Series(words, dtype=polars.Categorical),
        half[0].dictionary_encode(),
        pa.chunked_array(half),
        pa.chunked_array(half).cast(pa.large_string()),
        pa.chunked_array([one.dictionary_encode() for one in half]),
    ):
        check(column, words if len(column) == 500 else words[:250])


def test_a_dictionary_may_repeat_a_text_and_hold_others():
    indices = pa.array([0, 3, 2, 0], pa.int8())
    listed = pa.array(["b", "unused", "a", "b"])
    check(pa.DictionaryArray.from_arrays(indices, listed), ["b", "b", "a", "b"])


def test_half_a_surrogate_pair_is_an_id_like_any_other():
    check(["\ud800", "a", "\ud800"], ["\ud800", "a", "\ud800"])


def test_a_missing_string_of_a_dictionary_is_refused():
    indices, listed = pa.array([0, 1]), pa.array(["a", None])
    column = pa.DictionaryArray.from_arrays(indices, listed)
    with pytest.raises(ValueError, match=r"missing values. Received 1.* row 1"):
        encode_ids("ids", column)


def test_what_is_wrong_with_a_string_names_its_first_row():
    for column in (["a", "b" * 300, "c", "b" * 300], ["a", "b\0", "b\0"]):
        for made in (column, pa.array(column)):
            with pytest.raises(ValueError, match=r"`ids` must .* in row 1"):
                encode_ids("ids", made)


def test_a_vocabulary_takes_encoded_columns():
    one, other = encode_ids("ids", [30, 10]), encode_ids("ids", [20, 10])
    both = Vocabulary.from_ids(one, other)
    assert both.ids.tolist() == [10, 20, 30]
    assert both.rows_of(one).tolist() == [3, 1]
    assert both.rows_of(other).tolist() == [2, 1]
    alone = Vocabulary.from_ids(one)
    assert alone.rows_of(one).tolist() == [2, 1]
    assert alone.rows_of(EncodedIds(np.array([5, 30]), one.codes)).tolist() == [
        2,
        0,
    ]


def test_a_candidate_that_pads_lists_is_refused_with_its_row():
    with pytest.raises(ValueError, match=r"must not be -1.* in row 2"):
        RetrievalDataset([1, 2, 3, 4], [5, 0, -1, -1])
    with pytest.raises(ValueError, match=r"must not be ''.* in row 1"):
        RetrievalDataset([1, 2], ["a", ""])
