"""Which row of a table each raw id has."""

import json

import numpy as np
import pytest

from keras_dp_retrieval.data.vocabulary import Vocabulary


def test_known_ids_have_the_rows_after_unknown_in_sorted_order():
    vocabulary = Vocabulary.from_ids([30, 10], [20, 10])
    assert vocabulary.num_rows == 4
    np.testing.assert_array_equal(
        vocabulary.rows([10, 20, 30, 15, 99, -5]), [1, 2, 3, 0, 0, 0]
    )
    assert vocabulary.rows([10]).dtype == np.int32


def test_rows_lead_back_to_raw_ids():
    numbers = Vocabulary.from_ids([7, 9])
    np.testing.assert_array_equal(
        numbers.raw_ids([[1, 2], [0, -1]]), [[7, 9], [0, -1]]
    )
    words = Vocabulary.from_ids(["ann", "bob"])
    assert words.raw_ids([2, 0, -1, 1]).tolist() == ["bob", "", "", "ann"]
    with pytest.raises(ValueError, match=r"less than 3. Received: 3"):
        numbers.raw_ids([3])


def test_an_id_beyond_32_bits_is_unknown_and_not_cut():
    # 2**32 + 7 cut to 32 bits would be the known id 7.
    vocabulary = Vocabulary.from_ids([7])
    assert vocabulary.rows([2**32 + 7]).tolist() == [0]


def test_a_longer_string_is_not_cut_to_a_known_one():
    vocabulary = Vocabulary.from_ids(["ann"])
    assert vocabulary.rows(["anna", "an", "ann"]).tolist() == [0, 0, 1]


@pytest.mark.parametrize("ids", [[3, 1, 2**40], ["ann", "é", "b|c"], []])
def test_vocabulary_survives_json(ids):
    vocabulary = Vocabulary.from_ids(ids)
    config = json.loads(json.dumps(vocabulary.get_config()))
    again = Vocabulary.from_config(config)
    assert again.ids.tolist() == sorted(ids)
    assert again.rows(ids).tolist() == vocabulary.rows(ids).tolist()


def test_vocabulary_wants_the_type_it_knows():
    with pytest.raises(ValueError, match=r"whole numbers. Received: strings"):
        Vocabulary.from_ids([1, 2]).rows(["1"])
    with pytest.raises(ValueError, match="must be distinct"):
        Vocabulary(np.array([2, 1, 2]))


@pytest.mark.parametrize(
    ("old", "new"), [([30, 10], [20, 5, 2**40]), (["b", "z"], ["a", "longer"])]
)
def test_new_ids_go_to_the_end_and_move_no_row(old, new):
    vocabulary = Vocabulary.from_ids(old)
    longer = vocabulary.extended(new)
    assert longer.rows(old).tolist() == vocabulary.rows(old).tolist()
    assert longer.rows(new).tolist() == [3 + i for i in range(len(new))]
    assert longer.raw_ids(longer.rows(old + new)).tolist() == old + new
    config = json.loads(json.dumps(longer.get_config()))
    again = Vocabulary.from_config(config)
    assert again.rows(old + new).tolist() == longer.rows(old + new).tolist()
    assert vocabulary.extended([]) is vocabulary


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ([3, 1], r"2 ids, 1 of them known, such as .*1.*, and 0 repeated"),
        ([3, 3], r"0 of them known, and 1 repeated"),
        (["a"], "whole numbers. Received: strings"),
    ],
)
def test_only_new_ids_extend_a_vocabulary(new, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary.from_ids([1, 2]).extended(new)
