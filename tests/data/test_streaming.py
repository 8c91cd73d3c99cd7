"""Parquet files as batches: every row once, in an order that can be resumed."""

import contextlib
import itertools
import warnings

import keras
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import keras_dp_retrieval as kdr
from keras_dp_retrieval.data import row_padding
from keras_dp_retrieval.data.streaming import parquet_blocks, streamed_batches
from keras_dp_retrieval.data.streaming.row_order import EpochOrder

TIMES = {"timestamp_column": "timestamp"}
ALL = {"test_fraction": 0, "validation_fraction": 0}  # Is learned from.


def write(folder, columns, *, num_files=3, group_size=20):
    """Writes columns as Parquet files of small row groups."""
    folder.mkdir(exist_ok=True)
    table = pa.table(columns)
    bounds = np.linspace(0, len(table), num_files + 1).astype(int)
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        parquet.write_table(
            table.slice(start, stop - start),
            folder / f"{number}.parquet",
            row_group_size=group_size,
        )
    return folder


def numbered(folder, num_rows, **options):
    """A folder where the candidate of row i is i."""
    rng = np.random.default_rng(0)
    columns = {
        "user_id": rng.integers(1, 9, num_rows),
        "candidate_id": np.arange(num_rows),
    }
    return write(folder, columns, **options)


def interactions(num_rows=500, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "user_id": rng.integers(5, 60, num_rows),
        "candidate_id": rng.integers(0, 40, num_rows),
        "rating": rng.integers(1, 6, num_rows),
        "timestamp": rng.integers(-400, 400, num_rows),
    }


def streamed(path, **options):
    options = {"batch_size": 16, "shuffle_window": 64, **options}
    return kdr.RetrievalDataset.from_parquet(path, streaming=True, **options)


@contextlib.contextmanager
def rows_divide_by(multiple):
    """As if there were so many devices."""
    known = list(row_padding._padded_size)
    row_padding.register_padded_size(lambda n: -(-n // multiple) * multiple)
    try:
        yield
    finally:
        row_padding._padded_size[:] = known


def candidates_of(batch):
    """The candidate rows of a batch that are no padding, and their weights."""
    x, y, *weights = batch
    weights = weights[0] if weights else np.ones(x.shape, "float32")
    return y["candidate_id"][weights > 0]


def epoch_of(source, index=0, count=1, steps=1):
    groups = source.process_groups(steps, index, count)
    return [candidates_of(group) for group in groups]


def epoch_of_processes(data, count, epoch=0, batch=0, steps=1):
    """What each of several processes reads, one after the other."""
    shares = []
    with rows_divide_by(count):
        for index in range(count):
            data.start_at(epoch, batch)
            groups = data.batches("train").process_groups(steps, index, count)
            shares.append(list(groups))
    return shares


@pytest.mark.parametrize("num_processes", [1, 2, 3])
@pytest.mark.parametrize("num_rows", [1, 15, 16, 17, 97, 1009])
def test_every_row_comes_once_an_epoch(tmp_path, num_rows, num_processes):
    data = streamed(numbered(tmp_path / "d", num_rows), **ALL)
    for epoch in range(2):
        shares = epoch_of_processes(data, num_processes, epoch, steps=3)
        batches = itertools.chain.from_iterable(shares)
        found = np.concatenate([candidates_of(batch) for batch in batches])
        np.testing.assert_array_equal(np.sort(found), np.arange(num_rows) + 1)


@pytest.mark.parametrize("batch_size", [1, 5, 16, 2000])
def test_processes_share_the_batches_that_one_would_have(tmp_path, batch_size):
    folder = numbered(tmp_path / "d", 331, group_size=7)
    data = streamed(folder, **ALL, batch_size=batch_size)
    (alone,) = epoch_of_processes(data, 1)
    for count in (2, 3):
        shares = epoch_of_processes(data, count)
        for expected, *parts in zip(alone, *shares, strict=True):
            found = np.concatenate([candidates_of(part) for part in parts])
            np.testing.assert_array_equal(found, candidates_of(expected))
            # What pads a batch is in it: no other row of a table is looked at.
            for _, y, *_ in parts:
                assert np.isin(y["candidate_id"], found).all()


def test_a_process_reads_its_share_of_the_files(tmp_path, monkeypatch):
    folder = numbered(tmp_path / "d", 3200)
    data = streamed(folder, **ALL, batch_size=20)
    num_blocks = len(data._files.blocks)
    read = set()
    plain = parquet_blocks.ParquetBlocks.read

    def counted(self, block, keys):
        read.add(block)
        return plain(self, block, keys)

    monkeypatch.setattr(parquet_blocks.ParquetBlocks, "read", counted)
    for count, most in ((1, num_blocks), (2, 0.6), (4, 0.4), (5, 0.4)):
        for index in range(count):
            read.clear()
            with rows_divide_by(count):
                source = data.batches("train")
            source.start_at_epoch(0)
            for _ in source.process_groups(8, index, count):
                pass
            assert len(read) <= most * num_blocks
            assert len(read) >= num_blocks / count - 1


def test_epochs_differ_and_follow_the_seed(tmp_path):
    folder = numbered(tmp_path / "d", 400)
    first, again = streamed(folder, **ALL), streamed(folder, **ALL)
    other = streamed(folder, **ALL, seed=1)
    epochs = [
        [np.concatenate(epoch_of(data.batches("train"))) for _ in range(2)]
        for data in (first, again, other)
    ]
    np.testing.assert_array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0][0], epochs[0][1])
    assert not np.array_equal(epochs[0][0], epochs[2][0])


def test_the_rows_of_one_row_group_are_shuffled_too(tmp_path):
    folder = numbered(tmp_path / "d", 97, num_files=1, group_size=97)
    source = streamed(folder, **ALL).batches("train")
    epochs = [np.concatenate(epoch_of(source)) for _ in range(3)]
    for one, other in itertools.combinations([np.arange(97) + 1, *epochs], 2):
        assert np.mean(one == other) < 0.2


def test_batches_mix_rows_from_all_over_the_files(tmp_path):
    folder = numbered(tmp_path / "d", 6400, group_size=50)
    data = streamed(folder, **ALL, batch_size=64, shuffle_window=1)
    for rows in epoch_of(data.batches("train")):
        # Independent draws would be of 50 blocks.
        assert len(np.unique((rows - 1) // 50)) >= 14
        assert np.ptp(rows) > 3200


def test_a_window_has_as_many_rows_as_were_asked_for():
    counts = np.full(64, 100)
    for window in (1, 1600, 3200, 10**9):
        order = EpochOrder(counts, 32, window, (0, 0))
        found = [order.windows(shard) for shard in range(order.num_shards)]
        sizes = [[sum(map(len, one)) for one in windows] for windows in found]
        for shard in sizes:
            assert sum(shard) == 400
            assert all(
                size * 16 >= window or size == 400 for size in shard[:-1]
            )


@pytest.mark.parametrize("count", [1, 2])
def test_resumed_at_any_step_come_the_remaining_batches(tmp_path, count):
    folder = numbered(tmp_path / "d", 397, group_size=7)
    with rows_divide_by(count):
        whole = streamed(folder, **ALL)
        for index in range(count):
            whole.start_at_epoch(3)
            expected = epoch_of(whole.batches("train"), index, count)
            for step in range(len(expected) + 1):
                data = streamed(folder, **ALL) if step == 7 else whole
                data.start_at(3, step)
                found = epoch_of(data.batches("train"), index, count)
                if step == len(expected):  # The next epoch.
                    assert len(found) == step
                    continue
                for rows, same in zip(found, expected[step:], strict=True):
                    np.testing.assert_array_equal(rows, same)


def test_resuming_does_not_read_what_comes_before(tmp_path, monkeypatch):
    data = streamed(numbered(tmp_path / "d", 3200), **ALL)
    num_blocks, read = len(data._files.blocks), []
    plain = parquet_blocks.ParquetBlocks.read

    def counted(self, block, keys):
        read.append(block)
        return plain(self, block, keys)

    monkeypatch.setattr(parquet_blocks.ParquetBlocks, "read", counted)
    data.start_at(0, 150)  # Of 200.
    epoch_of(data.batches("train"))
    assert len(read) <= num_blocks / 4 + 2 * 16


def test_what_was_read_ahead_does_not_count(tmp_path):
    data = streamed(numbered(tmp_path / "d", 397), **ALL)
    source = data.batches("train")
    built_on = source.first_batch()
    groups = source.numpy_groups(2)
    begun = [candidates_of(next(groups)) for _ in range(5)]
    groups.close()  # Broken off, with windows read ahead.
    again = epoch_of(source, steps=2)
    for rows, same in zip(begun, again, strict=False):
        np.testing.assert_array_equal(rows, same)
    np.testing.assert_array_equal(candidates_of(built_on), again[0][:16])
    data.start_at(0, 6)  # Of ten that were handed over, six are in the weights.
    np.testing.assert_array_equal(
        np.concatenate(epoch_of(source)), np.concatenate(again[3:])
    )
    # That pass came to its end: the next is another epoch.
    assert not np.array_equal(epoch_of(source, steps=2)[0], again[0])


def test_what_a_model_was_built_on_is_kept_if_a_process_needs_it(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(streamed_batches, "_EXAMPLES_A_CALL", 16)
    data = streamed(numbered(tmp_path / "d", 1000), **ALL)
    with rows_divide_by(2):
        source = data.batches("train")
        source.first_batch()
        _, windows = source._begun
        groups = source.process_groups(1, 1, 2)
        next(groups)
    shards = {shard for shard, _ in windows._reading}
    assert shards == set(range(4, 8))
    groups.close()
    assert not windows._reading


def test_a_dataset_of_tensorflow_has_the_same_batches(tmp_path):
    folder = write(tmp_path / "d", interactions())
    data = streamed(folder, **TIMES, rating_column="rating")
    by_hand = list(data.batches("train").numpy_groups(1))
    data.start_at_epoch(0)
    assert data.train is data.train
    assert int(data.train.cardinality()) == len(by_hand)
    read = list(data.train.as_numpy_iterator())
    for batch, expected in zip(read, by_hand, strict=True):
        keras.tree.map_structure(
            lambda a, b: np.testing.assert_array_equal(a, b[0]),
            batch,
            expected,
        )
    other = list(data.train.as_numpy_iterator())
    assert not np.array_equal(other[0][0], read[0][0])


@pytest.mark.parametrize(
    ("test_fraction", "validation_fraction"),
    [(0.2, 0.1), (0.0, 0.3), (0.5, 0.0), (0.003, 0.9)],
)
@pytest.mark.parametrize("far", [False, True])
def test_parts_are_those_of_the_data_set_in_memory(
    tmp_path, test_fraction, validation_fraction, far
):
    columns = interactions()
    if far:  # Further apart than 63 bits.
        columns["timestamp"] = columns["timestamp"] * 2**54
        columns["timestamp"][:2] = np.iinfo("int64").min, 2**63 - 1
    folder = write(tmp_path / "d", columns)
    options = {
        **TIMES,
        "rating_column": "rating",
        "test_fraction": test_fraction,
        "validation_fraction": validation_fraction,
    }
    data = streamed(folder, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of what test and train share.
        whole = kdr.RetrievalDataset.from_parquet(
            folder, split="by_time", **options
        )
        whole.leakage  # noqa: B018
    for side in ("user", "candidate"):
        np.testing.assert_array_equal(
            getattr(data, f"{side}_vocabulary").ids,
            getattr(whole, f"{side}_vocabulary").ids,
        )
    for part in ("train", "validation", "test"):
        expected = whole.ratings(part)
        assert data.num_rows(part) == len(expected)
        np.testing.assert_array_equal(
            data.candidate_counts(part), whole.candidate_counts(part)
        )
        np.testing.assert_array_equal(
            data.user_counts(part),
            np.bincount(expected.user_rows, minlength=data.num_users),
        )
        if not len(expected):
            assert getattr(data, part) is None
            continue
        found = [
            np.stack([x[real], y["candidate_id"][real], y["rating"][real]])
            for x, y, *weights in data.batches(part).numpy_groups(4)
            for real in [weights[0] > 0 if weights else np.full(x.shape, True)]
        ]
        found = np.concatenate(found, axis=1)
        expected = np.stack(
            [
                expected.user_rows,
                expected.candidate_rows,
                (expected.ratings - 1) / np.float32(4),
            ]
        )
        np.testing.assert_array_equal(
            found[:, np.lexsort(found)], expected[:, np.lexsort(expected)]
        )


def test_parts_begin_at_the_moments_that_are_given(tmp_path):
    columns = interactions()
    days = columns["timestamp"].astype("M8[D]")
    folder = write(tmp_path / "d", {**columns, "timestamp": days})
    data = streamed(
        folder, **TIMES, validation_from="1970-02-01", test_from="1970-06-01"
    )
    since = [np.datetime64(day) for day in ("1970-02-01", "1970-06-01")]
    assert data.num_rows("train") == np.sum(days < since[0])
    assert data.num_rows("test") == np.sum(days >= since[1])
    assert data.moments["test"].startswith("1970-06-01T00:00")
    assert "test from 1970-06-01" in data.description
    with pytest.raises(ValueError, match=r"`test_from` must be what the time"):
        streamed(folder, **TIMES, test_from=5)
    with pytest.raises(ValueError, match=r"`validation_from` must not be lat"):
        streamed(
            folder,
            **TIMES,
            validation_from="1970-02-02",
            test_from="1970-02-01",
        )
    with pytest.raises(ValueError, match=r"none of which is older"):
        streamed(folder, **TIMES, test_from="1900-01-01")


def test_names_are_ids_and_folders_are_columns(tmp_path):
    columns = interactions()
    names = {
        "user_id": [f"user {i}" for i in columns["user_id"]],
        "candidate_id": pa.array(
            [f"item {i}" for i in columns["candidate_id"]]
        ).dictionary_encode(),
        "timestamp": columns["timestamp"],
        "weight": columns["rating"] / 2,
    }
    write(tmp_path / "event=buy", names)
    write(tmp_path / "event=look", names, num_files=1)
    options = {
        **TIMES,
        "filters": {"event": "buy"},
        "weight_column": "weight",
    }
    data = streamed(tmp_path, **options)
    with pytest.warns():
        whole = kdr.RetrievalDataset.from_parquet(
            tmp_path, split="by_time", **options
        )
    expected = whole.ratings("train")
    found = []
    for x, y, weights in data.batches("train").numpy_groups(1):
        real = weights > 0
        found.append([x[real], y["candidate_id"][real], weights[real]])
    found = np.concatenate(found, axis=1)
    expected = np.stack(
        [expected.user_rows, expected.candidate_rows, expected.weights]
    )
    np.testing.assert_array_equal(
        found[:, np.lexsort(found)], expected[:, np.lexsort(expected)]
    )
    assert "500 of 1,000 rows" in data.description
    options["filters"] = {"event": "sell"}
    with pytest.raises(ValueError, match=r"`filters` must leave"):
        streamed(tmp_path, **options)


def test_ids_may_be_given(tmp_path):
    columns = interactions()
    folder = write(tmp_path / "d", columns)
    data = streamed(folder, **TIMES, candidate_ids=np.arange(-5, 100))
    assert data.num_candidates == 106
    counts = data.candidate_counts("train")
    assert counts[:6].sum() == 0  # Unknown, and -5 to -1.
    assert counts[46:].sum() == 0
    with pytest.raises(ValueError, match=r"`user_ids` must have every id of"):
        streamed(folder, **TIMES, user_ids=range(5, 50))


def test_fit_gives_what_the_same_batches_as_arrays_give(tmp_path, on_devices):
    on_devices(3)
    folder = write(tmp_path / "d", interactions())
    data = streamed(folder, **TIMES, rating_column="rating")

    def model():
        keras.utils.set_random_seed(0)
        made = kdr.TwoTowerRetrieval(
            data.num_users,
            data.num_candidates,
            4,
            candidate_key="candidate_id",
            objective="in_batch_softmax",
        )
        made.compile(keras.optimizers.Adagrad(0.1), steps_per_execution=4)
        return made

    one, other = model(), model()
    losses = one.fit(data.train, epochs=2, verbose=0).history["loss"]
    assert int(one.optimizer.iterations) == 2 * data.steps_per_epoch
    data.start_at_epoch(0)
    for loss in losses:
        batches = [
            keras.tree.map_structure(lambda rows, w=w: rows[w > 0], (x, y))
            for x, y, w in data.batches("train").numpy_groups(1)
        ]
        x, y = keras.tree.map_structure(
            lambda *rows: np.concatenate(rows), *batches
        )
        history = other.fit(x, y, batch_size=16, shuffle=False, verbose=0)
        assert history.history["loss"] == [loss]
    for weight, same in zip(
        one.get_weights(), other.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(weight, same)


# What does not fit


def test_a_folder_without_parquet_files_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"must hold Parquet files"):
        streamed(tmp_path, **TIMES)
    with pytest.raises(FileNotFoundError, match=r"There is no file"):
        streamed(tmp_path / "nowhere", **TIMES)
    (tmp_path / "list.txt").write_text("user_id,candidate_id\n")
    with pytest.raises(ValueError, match=r"damaged.*list\.txt"):
        streamed(tmp_path, **TIMES)


@pytest.mark.parametrize("name", ["0.parquet", "2.parquet"])
def test_a_truncated_file_is_named(tmp_path, name):
    folder = write(tmp_path / "d", interactions())
    path = folder / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"{name}.*damaged|damaged.*{name}"):
        streamed(folder, **TIMES)


def test_a_file_with_damage_in_the_middle_is_named(tmp_path):
    folder = write(tmp_path / "d", interactions())
    path = folder / "1.parquet"
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"1\.parquet.*damaged"):
        streamed(folder, **TIMES)


@pytest.mark.parametrize(
    ("change", "message"),
    [("replaced", "must not change while"), ("gone", "is damaged, gone or")],
)
def test_a_file_that_changed_is_named(tmp_path, change, message):
    folder = write(tmp_path / "d", interactions())
    data = streamed(folder, **TIMES)
    if change == "gone":
        (folder / "1.parquet").unlink()
    else:
        other = write(tmp_path / "e", interactions(501, seed=1))
        (other / "1.parquet").replace(folder / "1.parquet")
    with pytest.raises(ValueError, match=rf"1\.parquet.*{message}"):
        epoch_of(data.batches("train"))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("user_id", None, r"`user_ids` .*3.*row 100 of .*1\.parquet"),
        ("candidate_id", -1, r"must not be -1.* row 3.*Rows are those of"),
        ("rating", 7, r"between 1 and 5.* row 3: 7.*row 100 of"),
        ("timestamp", None, r"`timestamps`.*3"),
    ],
)
def test_a_value_that_does_not_fit_is_placed(tmp_path, column, value, message):
    columns = {name: list(c) for name, c in interactions(600).items()}
    columns[column][303] = value  # Row 103 of the second file.
    folder = write(tmp_path / "d", columns)
    message = message.replace("row 100 of", r"'.*from row 100")
    with pytest.raises(ValueError, match=r"1\.parquet"):
        data = streamed(folder, **TIMES, rating_column="rating")
        epoch_of(data.batches("train"))


def test_large_row_groups_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_blocks, "MOST_ROWS", 19)
    folder = write(tmp_path / "d", interactions())
    with pytest.raises(ValueError, match=r"at most 19 rows.*Write the file"):
        streamed(folder, **TIMES)


def test_what_needs_memory_says_so(tmp_path):
    folder = write(tmp_path / "d", interactions())
    data = streamed(folder, **TIMES)
    for use in (
        lambda: data.ratings("train"),
        lambda: data.seen,
        lambda: data.seen_before("test"),
        lambda: data.leakage,
        lambda: data.by_user(),
        lambda: data.next_items(),
        lambda: data.by_sequence(),
    ):
        with pytest.raises(ValueError, match=r"in memory.*`filters=`"):
            use()
    for options, message in (
        ({"split": "random"}, r"moment in time.*'random'"),
        ({"repeated": "last"}, r"`repeated='last'` needs all inter"),
        ({"test": ([1], [2])}, r"`test_from=...`"),
        ({"timestamp_column": None}, r"`timestamp_column=...`"),
        ({"shuffle_window": 0}, r"`shuffle_window` must"),
        ({"test_fraction": 1.5}, r"`test_fraction` must"),
    ):
        with pytest.raises(ValueError, match=message):
            streamed(folder, **{**TIMES, **options})
    with pytest.raises(ValueError, match=r"most the 23 batches"):
        data.start_at(0, 24)
    data.start_at(0, 5)
    with pytest.raises(Exception, match=r"begin within an epoch"):
        next(iter(data.train))


def test_config_makes_the_same_data_set(tmp_path):
    folder = write(tmp_path / "d", interactions())
    data = streamed(folder, **TIMES, candidate_titles={3: "three"})
    config = keras.saving.serialize_keras_object(data)
    again = keras.saving.deserialize_keras_object(config)
    assert again.fingerprint == data.fingerprint
    assert again.candidate_titles == {3: "three"}
    np.testing.assert_array_equal(
        epoch_of(again.batches("train"))[5], epoch_of(data.batches("train"))[5]
    )


def test_other_contents_or_moments_have_other_fingerprints(tmp_path):
    columns = interactions()
    folder = write(tmp_path / "d", columns)
    prints = [streamed(folder, **TIMES).fingerprint["train"]]
    prints.append(streamed(folder, **TIMES, test_from=300).fingerprint["train"])
    columns["user_id"][7] += 1
    write(folder, columns)
    prints.append(streamed(folder, **TIMES).fingerprint["train"])
    assert len(set(prints)) == 3
