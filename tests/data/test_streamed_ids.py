"""Ids of block after block: counted in little memory, and looked up."""

import numpy as np
import pytest

from keras_dp_retrieval.data.encoded_ids import encode_ids
from keras_dp_retrieval.data.streaming import id_tally
from keras_dp_retrieval.data.streaming.id_lookup import IdLookup
from keras_dp_retrieval.data.streaming.id_tally import IdTally
from keras_dp_retrieval.data.vocabulary import Vocabulary


def ids_of(kind, rng, num):
    numbers = rng.integers(0, 200, num)
    return {
        "small": lambda: numbers,
        "far apart": lambda: (numbers - 100) * 2**50,
        "around the table's end": lambda: numbers + 2**25 - 100,
        "texts": lambda: np.array([f"{n * 37 % 101}é{n}" for n in numbers]),
    }[kind]()


KINDS = ["small", "far apart", "around the table's end", "texts"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_tally_is_what_a_sort_of_everything_finds(kind, monkeypatch):
    monkeypatch.setattr(id_tally, "_WAITING", 50)  # So that it merges often.
    rng = np.random.default_rng(0)
    tally, columns, of_parts = IdTally("ids", 3), [], []
    for num in (30, 0, 1, 300, 300, 5):
        columns.append(ids_of(kind, rng, num))
        of_parts.append(rng.integers(0, 3, num))
        tally.add(encode_ids("ids", columns[-1]), of_parts[-1])
    ids, counts = tally.result()
    columns = [column for column in columns if len(column)]
    every, parts = np.concatenate(columns), np.concatenate(of_parts)
    np.testing.assert_array_equal(ids, np.unique(every))
    for part in range(3):
        expected = [np.sum(every[parts == part] == one) for one in ids]
        np.testing.assert_array_equal(counts[:, part], expected)


def test_numbers_and_texts_do_not_mix():
    tally = IdTally("user_ids", 1)
    tally.add(encode_ids("user_ids", [1, 2]), np.zeros(2, int))
    with pytest.raises(ValueError, match=r"`user_ids` must be all whole"):
        tally.add(encode_ids("user_ids", ["1"]), np.zeros(1, int))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_the_vocabulary(kind):
    rng = np.random.default_rng(0)
    vocabulary = Vocabulary.from_ids(ids_of(kind, rng, 90))
    lookup = IdLookup("ids", vocabulary)
    for num in (0, 1, 500):
        ids = ids_of(kind, rng, num)  # Known ones and others.
        if num:
            np.testing.assert_array_equal(
                lookup.rows(ids), vocabulary.rows(ids)
            )
    if kind != "texts":
        wild = np.array([-1, 2**62, -(2**62)])
        np.testing.assert_array_equal(lookup.rows(wild), [0, 0, 0])
