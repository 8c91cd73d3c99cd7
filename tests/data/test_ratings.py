"""Columns, vocabularies and who has had what."""

import json

import numpy as np
import pytest

from keras_dp_retrieval.data.ratings import (
    Interactions,
    Ratings,
    RawRatings,
    Vocabulary,
)


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


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([1, 2], [1]), "lengths"),
        (([], []), "at least one row"),
        (([1.5], [1]), "`user_ids` must be whole numbers or strings"),
        (([[1]], [1]), "one-dimensional"),
        ((["a", None], [1, 2]), "missing values. Received 1, .* in row 1"),
        ((np.array(["a", 2], object), [1, 2]), "mixture"),
        (([1, 2], [1, 2], [3, np.nan]), r"Received 1 .* in row 1: nan"),
        (([1, 2], [1, 2], [np.inf, 1]), "finite"),
        (([1, 2], [1, 2], ["a", "b"]), "`ratings` must be numbers"),
        (([1], [1], [1], [1.5]), "`timestamps` must be whole numbers"),
        (([1], [1], [1], ["monday"]), "`timestamps` must be whole numbers"),
        ((np.array([2**64 - 1], np.uint64), [1]), "64 bits"),
    ],
)
def test_bad_columns_are_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        RawRatings(*columns)


def test_ratings_out_of_range_are_counted_and_the_first_is_named():
    raw = RawRatings([1, 2, 3], [1, 2, 3], [5, 5.5, 0])
    with pytest.raises(ValueError, match=r"Received 2 .* in row 1: 5.5"):
        raw.check_range(1, 5)


def test_dates_keep_their_order_below_a_second():
    dates = np.array(["2020-01-01T00:00:00.5", "2020-01-01"], "M8[ms]")
    times = RawRatings([1, 1], [1, 2], None, dates).timestamps
    assert times[0] - times[1] == 500_000_000


def test_rows_that_do_not_fit_are_refused_before_the_cast():
    with pytest.raises(ValueError, match="`user_rows` must be whole numbers"):
        Ratings(np.array([-1]), np.array([1]))
    with pytest.raises(ValueError, match="`candidate_rows`"):
        Ratings(np.array([1]), np.array([2**32 + 1]))
    with pytest.raises(ValueError, match="must have the shape"):
        Ratings(np.array([1]), np.array([1, 2]))


def history(timestamps=(5, 1, 9, 5, 2)):
    # User 1 has candidates 4, 5, 6; user 3 has 7, 8; user 2 has none.
    return Interactions.from_ratings(
        Ratings(
            np.array([1, 1, 3, 1, 3]),
            np.array([4, 5, 7, 6, 8]),
            None,
            None if timestamps is None else np.array(timestamps),
        ),
        num_users=4,
    )


def test_histories_are_in_time_order_and_ties_in_file_order():
    assert [list(had) for had in history().of([1, 2, 3])] == [
        [5, 4, 6],
        [],
        [8, 7],
    ]


def test_histories_without_timestamps_are_in_file_order():
    assert [list(had) for had in history(None).of([1, 3])] == [
        [4, 5, 6],
        [7, 8],
    ]


def test_padded_histories_keep_the_latest():
    np.testing.assert_array_equal(
        history().padded([3, 2, 1]), [[8, 7, -1], [-1, -1, -1], [5, 4, 6]]
    )
    np.testing.assert_array_equal(
        history().padded([3, 1], max_length=2), [[8, 7], [4, 6]]
    )
    np.testing.assert_array_equal(history().padded([2, 0]), [[-1], [-1]])
    assert history().padded([1]).dtype == np.int32


def test_padded_histories_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    ratings = Ratings(
        rng.integers(20, size=300),
        rng.integers(50, size=300),
        None,
        rng.integers(30, size=300),
    )
    had = Interactions.from_ratings(ratings, 25)
    rows = rng.integers(25, size=40)
    for max_length in (None, 1, 5):
        padded = had.padded(rows, max_length)
        for row, line in zip(rows, padded, strict=True):
            places = np.flatnonzero(ratings.user_rows == row)
            times = ratings.timestamps[places]
            places = places[np.argsort(times, kind="stable")]
            expected = ratings.candidate_rows[places][-(max_length or 999) :]
            assert line[line >= 0].tolist() == expected.tolist()
            assert (line[len(expected) :] == -1).all()


def test_users_outside_the_table_are_refused():
    with pytest.raises(ValueError, match=r"num_users=3 and row 3"):
        Interactions.from_ratings(
            Ratings(np.array([3]), np.array([1])), num_users=3
        )
    with pytest.raises(ValueError, match="between 0 and 3"):
        history().padded([4])
    with pytest.raises(ValueError, match="between 0 and 3"):
        history().of([-1])


def test_candidates_are_counted_over_all_rows():
    counts = history().candidate_counts(10)
    assert counts.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, 0]
