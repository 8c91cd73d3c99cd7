"""Streamed examples bring what their users did before, and nothing else."""

import itertools

import keras
import numpy as np
import pytest

from keras_dp_retrieval.data.streaming import user_timelines
from tests.data.test_streaming import (
    ALL,
    TIMES,
    epoch_of_processes,
    interactions,
    rows_divide_by,
    streamed,
    write,
)


def many_ties(num_rows=300):
    """About four interactions of a user at each of few moments."""
    rng = np.random.default_rng(4)
    return {
        "user_id": rng.integers(5, 13, num_rows),
        "candidate_id": rng.integers(0, 30, num_rows),
        "timestamp": rng.integers(0, 9, num_rows) * 10**17 - 10**17,
        "event": rng.choice(["buy", "look"], num_rows),
    }


def expected_examples(columns, max_history):
    """`(time, user, candidate, history)` of all, the slow obvious way."""
    rows = list(
        zip(
            columns["timestamp"].tolist(),
            columns["user_id"].tolist(),
            columns["candidate_id"].tolist(),
            strict=True,
        )
    )
    examples = []
    for time, user, candidate in rows:
        before = [row for row in rows if row[1] == user and row[0] < time]
        before = sorted(before, key=lambda row: row[0])[-max_history:]
        history = tuple(one for *_, one in before)
        examples.append((time, user, candidate, history))
    return examples


def examples_of(batches, data):
    """`(user, candidate, history)` of what is no padding, in ids."""
    users = [None, *data.user_vocabulary.ids.tolist()]
    candidates = [None, *data.candidate_vocabulary.ids.tolist()]
    for x, y, *weights in batches:
        assert x["history"].shape == (*x["user_id"].shape, data.max_history)
        real = weights[0] > 0 if weights else np.full(x["user_id"].shape, True)
        for user, candidate, history in zip(
            x["user_id"][real],
            y["candidate_id"][real],
            x["history"][real].tolist(),
            strict=True,
        ):
            length = sum(row >= 0 for row in history)
            assert history[length:] == [-1] * (len(history) - length)
            found = tuple(candidates[row] for row in history[:length])
            yield users[user], candidates[candidate], found


@pytest.mark.parametrize("max_history", [1, 3, 60])
@pytest.mark.parametrize("filters", [None, {"event": "buy"}])
def test_histories_are_what_the_user_did_strictly_before(
    tmp_path, max_history, filters, monkeypatch
):
    # A user has more than are put in order at a time, or as many, or fewer.
    monkeypatch.setattr(user_timelines, "_AT_A_TIME", 40)
    columns = many_ties()
    folder = write(tmp_path / "d", columns, group_size=17)
    options = {"max_history": max_history, "filters": filters}
    data = streamed(folder, **TIMES, **options, shuffle_window=40)
    if filters:
        kept = columns["event"] == "buy"
        columns = {name: column[kept] for name, column in columns.items()}
    expected = expected_examples(columns, max_history)
    validation, test = data.moments["validation"], data.moments["test"]
    assert min(columns["timestamp"]) < validation < test
    for split, first, last in (
        ("train", -np.inf, validation),
        ("validation", validation, test),
        ("test", test, np.inf),
    ):
        found = examples_of(data.batches(split).numpy_groups(3), data)
        of_part = [one[1:] for one in expected if first <= one[0] < last]
        assert sorted(found) == sorted(of_part)


def test_histories_stay_with_their_examples_in_processes_and_on_resuming(
    tmp_path,
):
    folder = write(tmp_path / "d", interactions(531), group_size=7)
    data = streamed(folder, **TIMES, **ALL, max_history=4)
    (alone,) = epoch_of_processes(data, 1)
    for count in (2, 3):
        shares = epoch_of_processes(data, count)
        for expected, *parts in zip(alone, *shares, strict=True):
            found = [list(examples_of([part], data)) for part in parts]
            whole = list(examples_of([expected], data))
            assert list(itertools.chain(*found)) == whole
            for x, *_ in parts:  # What pads a batch has a history of its own.
                known = set(map(tuple, expected[0]["history"][0].tolist()))
                assert known.issuperset(map(tuple, x["history"][0].tolist()))
    data.start_at(0, 5)
    source = data.batches("train")
    first = source.first_batch()
    rest = list(source.numpy_groups(1))
    for batch, same in zip([*rest, rest[0]], [*alone[5:], first], strict=True):
        keras.tree.map_structure(
            lambda one, other: np.testing.assert_array_equal(
                np.squeeze(one), np.squeeze(other)
            ),
            batch,
            same,
        )
    data.start_at_epoch(0)
    for batch, same in zip(data.train.as_numpy_iterator(), alone, strict=True):
        np.testing.assert_array_equal(
            batch[0]["history"], same[0]["history"][0]
        )


def test_histories_need_times_and_a_length(tmp_path):
    folder = write(tmp_path / "d", interactions(40))
    with pytest.raises(ValueError, match=r"`max_history` must be a whole"):
        streamed(folder, **TIMES, max_history=0)
    with pytest.raises(ValueError, match=r"`max_history` needs time stamps"):
        streamed(folder, **ALL, max_history=3)
    data = streamed(folder, **TIMES, max_history=3)
    assert "histories of at most 3" in data.description
    config = keras.saving.serialize_keras_object(data)
    again = keras.saving.deserialize_keras_object(config)
    assert again.max_history == 3
    with rows_divide_by(7):  # 16 examples and padding.
        (x, *_), *_ = again.batches("test").numpy_groups(1)
    assert x["history"].shape[1:] == (21, 3)
