"""Files and frames as people have them: columns, filters, repeats, weights."""

import logging

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from keras_dp_retrieval.data.dataset import RetrievalDataset
from keras_dp_retrieval.data.readers import csv_pieces, parquet_files
from keras_dp_retrieval.data.vocabulary import Vocabulary

pytestmark = pytest.mark.filterwarnings("ignore:.*test interactions")

WHOLE = {"test_fraction": 0, "validation_fraction": 0}


def sources(columns, folder):
    """The same table in every form that is read, by the form's name."""
    pandas = pytest.importorskip("pandas")
    polars = pytest.importorskip("polars")
    frame = pandas.DataFrame(columns)
    frame.to_csv(folder / "a.csv", index=False)
    frame.to_csv(folder / "quoted.csv.gz", index=False, quoting=1)
    frame.to_parquet(folder / "a.parquet")
    from_frame = RetrievalDataset.from_dataframe
    from_csv = RetrievalDataset.from_csv
    return {
        "dict": (from_frame, dict(columns)),
        "pandas": (from_frame, frame.set_index(frame.index[::-1])),
        "polars": (from_frame, polars.DataFrame(columns)),
        "Arrow": (from_frame, pa.table(columns)),
        "CSV": (from_csv, folder / "a.csv"),
        "quoted CSV": (from_csv, folder / "quoted.csv.gz"),
        "Parquet": (RetrievalDataset.from_parquet, folder / "a.parquet"),
    }


EVENTS = {
    "userId": ["ann", "ann", "bob", "ann", "bob", "cid"],
    "Movie ID": [7, 8, 7, 7, 9, 9],
    "event": ["view", "buy", "buy", "buy", "cart", "buy"],
    "price": [1.5, 2.0, 3.5, 4.0, 5.0, 0.5],
    "stars": [1.0, 2.0, 3.0, 4.0, 5.0, 1.0],
    "time": [60, 50, 40, 30, 20, 10],
    "weight": [1.0, 2.0, 0.5, 4.0, 1.0, 1.0],
}


def rows_of(data):
    """All interactions as they came, as tuples."""
    columns = data._raw_data.interactions.as_lists().values()
    return list(zip(*(column for column in columns if column), strict=True))


def test_columns_are_found_by_their_usual_names_and_that_is_said(
    tmp_path, caplog
):
    for form, (read, source) in sources(EVENTS, tmp_path).items():
        caplog.clear()
        with caplog.at_level(logging.INFO, "keras_dp_retrieval"):
            data = read(source, rating_column="auto", timestamp_column="auto")
        assert rows_of(data) == list(
            zip(
                *(EVENTS[name] for name in ("userId", "Movie ID")),
                *(EVENTS[name] for name in ("stars", "time")),
                strict=True,
            )
        ), form
        for said in (data.description, caplog.text):
            assert "user_column='userId'" in said, form
            assert "candidate_column='Movie ID'" in said, form
            assert "rating_column='stars'" in said, form
        assert "timestamp_column='time'" in data.description
        assert "ratings" not in rows_of(read(source))[0]  # Unless asked for.
        assert len(rows_of(read(source))[0]) == 2


def test_the_usual_name_comes_before_all_others():
    columns = {"user": [1], "user_id": [2], "itemid": [3], "item": [4]}
    with pytest.raises(
        ValueError, match=r"several: \['itemid', 'item'\].*`can"
    ):
        RetrievalDataset.from_dataframe(columns)
    data = RetrievalDataset.from_dataframe(
        columns, candidate_column="item", **WHOLE
    )
    assert rows_of(data) == [(2, 4)]
    assert "found" not in data.description
    both = {"user": [1], "customer_id": [2], "item": [3]}
    with pytest.raises(ValueError, match=r"'customer_id'\].*`user_column=...`"):
        RetrievalDataset.from_dataframe(both)
    # What has a job already cannot be meant.
    data = RetrievalDataset.from_dataframe(
        both, candidate_column="customer_id", **WHOLE
    )
    assert rows_of(data) == [(1, 2)]
    with pytest.raises(
        ValueError, match=r"Missing: \['candidate_id'\].*\['user"
    ):
        RetrievalDataset.from_dataframe({"user": [1], "what": [2]})


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ({"event": "buy"}, [1, 2, 3, 5]),
        ({"event": ["buy", "cart"], "Movie ID": 9}, [4, 5]),
        ([("price", ">", 1.5), ("event", "!=", "cart")], [1, 2, 3]),
        ([("event", "not in", {"buy"})], [0, 4]),
        ([("time", "<=", 30)], [3, 4, 5]),
    ],
)
def test_only_rows_that_meet_the_filters_are_read(tmp_path, filters, kept):
    for form, (read, source) in sources(EVENTS, tmp_path).items():
        data = read(source, filters=filters, timestamp_column="time", **WHOLE)
        expected = [
            tuple(EVENTS[name][row] for name in ("userId", "Movie ID", "time"))
            for row in kept
        ]
        assert rows_of(data) == expected, form
        assert f"filters kept {len(kept)} of 6 rows" in data.description, form
        users = {row[0] for row in expected}
        assert set(data.user_vocabulary.ids.tolist()) == users, form


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"kind": "buy"}, r"Missing: \['kind'\]"),
        ({"event": "sell"}, "at least one row. Received: none of 6"),
        ({"event": None}, "`filters` must be a dict such as"),
        ({"event": []}, "`filters` must be"),
        ([("event", "like", "b")], "`filters` must be"),
        ([("event", "in", "buy")], "`filters` must be"),
        ([("event", "buy")], "`filters` must be"),
        ("event == 'buy'", "`filters` must be"),
        ([("event", ">", 5)], "compare columns with values of their type"),
    ],
)
def test_filters_that_make_no_sense_are_refused(tmp_path, filters, message):
    for read, source in sources(EVENTS, tmp_path).values():
        with pytest.raises(ValueError, match=message):
            read(source, filters=filters)


@pytest.mark.parametrize(
    ("repeated", "timed", "expected"),
    [
        ("keep", True, [0, 1, 2, 3, 4]),
        ("first", True, [1, 3, 4]),
        ("last", True, [0, 2, 3]),
        ("first", False, [0, 2, 3]),
        ("last", False, [1, 3, 4]),
    ],
)
def test_repeated_pairs_are_kept_as_the_rule_says(
    tmp_path, repeated, timed, expected
):
    columns = {
        "user_id": ["a", "a", "b", "c", "a"],
        "candidate_id": [1, 1, 2, 1, 1],
        "rating": [1.0, 2.0, 3.0, 4.0, 5.0],
        "timestamp": [9, 5, 7, 7, 8],
    }
    columns["user_id"][4], columns["candidate_id"][4] = "b", 2
    columns["timestamp"][4] = 3  # Older than row 2, the same pair.
    for read, source in sources(columns, tmp_path).values():
        data = read(
            source,
            rating_column="rating",
            timestamp_column="timestamp" if timed else None,
            repeated=repeated,
            **WHOLE,
        )
        ratings = [row[2] for row in rows_of(data)]
        assert ratings == [columns["rating"][row] for row in expected]
        said = f"2 repeated pairs merged ({repeated!r})"
        assert (said in data.description) == (repeated != "keep")
        assert data.leakage.num_repeated == 0


def test_of_one_time_the_order_of_the_file_counts():
    columns = {"user_id": [1, 1, 1], "candidate_id": [2, 2, 2], "t": [5, 5, 5]}
    columns["rating"] = [1, 2, 3]
    for repeated, rating in (("first", 1), ("last", 3)):
        data = RetrievalDataset.from_dataframe(
            columns,
            rating_column="rating",
            timestamp_column="t",
            repeated=repeated,
            **WHOLE,
        )
        assert rows_of(data) == [(1, 2, rating, 5)]


def test_weights_of_repeated_pairs_add_up():
    rng = np.random.default_rng(0)
    users, items = rng.integers(9, size=(2, 500))
    weights = rng.random(500) + 0.1
    columns = {"user": users, "item": items, "weight": weights}
    data = RetrievalDataset.from_dataframe(
        columns, weight_column="weight", repeated="sum", **WHOLE
    )
    expected: dict = {}
    for pair, weight in zip(
        zip(users, items, strict=True), weights, strict=True
    ):
        expected[pair] = expected.get(pair, 0) + weight
    rows = rows_of(data)
    assert len(rows) == len(expected)
    for user, item, weight in rows:
        assert weight == pytest.approx(expected[user, item], rel=1e-6)
    for wrong, message in (("sum", "Name their column"), ("all", "`repeated`")):
        with pytest.raises(ValueError, match=message):
            RetrievalDataset.from_dataframe(columns, repeated=wrong)
    del columns["weight"]
    with pytest.raises(ValueError, match="Received: no weights"):
        RetrievalDataset.from_dataframe(
            columns, weight_column="auto", repeated="sum"
        )


@pytest.mark.parametrize(  # 43: a batch that is padded.
    "num", [pytest.param(40, marks=pytest.mark.slow), 43]
)
def test_weights_reach_fit_as_sample_weight(tmp_path, num):
    weights = 0.5 + np.arange(num) / 8
    columns = {"user": range(num), "item": range(num), "weight": weights}
    by_user = dict(zip(range(num), weights, strict=True))
    for read, source in sources(columns, tmp_path).values():
        data = read(source, weight_column="auto", batch_size=8)
        seen = {}
        for part in ("train", "validation", "test", "by_interaction"):
            batches = getattr(data, part)
            batches = batches(5) if callable(batches) else batches
            for x, _, sample_weight in batches.as_numpy_iterator():
                users = data.user_vocabulary.raw_ids(x)
                real = sample_weight > 0
                seen.update(zip(users[real], sample_weight[real], strict=True))
        assert seen == by_user
    again = RetrievalDataset.from_config(data.get_config())
    assert again.get_config() == data.get_config()
    assert again.fingerprint == data.fingerprint
    light = RetrievalDataset.from_config({**data.get_config(), "weights": None})
    assert light.fingerprint["train"] != data.fingerprint["train"]


def test_weights_change_what_is_learned():
    import keras

    import keras_dp_retrieval as kdr

    def trained(weights):
        data = RetrievalDataset(
            [1, 2] * 8, [1, 2, 3, 4] * 4, weights=weights, **WHOLE
        )
        keras.utils.set_random_seed(0)
        model = kdr.TwoTowerRetrieval.for_dataset(
            data, 4, objective="full_softmax"
        )
        model.compile(optimizer=keras.optimizers.SGD(0.1))
        model.fit(data.train, epochs=1, verbose=0)
        return model.encode_users([1, 2])

    some = trained([1.0, 3.0] * 8)
    assert not np.allclose(some, trained(None))
    np.testing.assert_allclose(trained([1.0] * 16), trained(None), rtol=1e-6)


def test_who_does_not_use_weights_says_so():
    data = RetrievalDataset(
        [1, 1, 1, 2],
        [1, 2, 3, 4],
        None,
        range(4),
        weights=[1, 2, 3, 4],
        **WHOLE,
    )
    for make in (data.by_user, data.next_items):
        with pytest.warns(UserWarning, match="counts every interaction once"):
            make()


@pytest.mark.parametrize("weight", [0, -1, float("nan"), 1e-60, 1e60, "1"])
def test_weights_that_weigh_nothing_are_refused(weight):
    with pytest.raises(ValueError, match="`weights` must be"):
        RetrievalDataset([1, 2], [1, 2], weights=[1, weight])


def test_a_validation_part_needs_weights_where_the_others_have_them():
    given = [1, 2], [3, 4]
    with pytest.raises(ValueError, match="must have weights if and only if"):
        RetrievalDataset(*given, weights=[1, 2], validation=([1], [3]))
    data = RetrievalDataset(
        *given,
        weights=[1, 2],
        validation=([1], [3], None, None, [5]),
        validation_in_train=True,
        test_fraction=0,
    )
    assert sorted(data.ratings("train").weights.tolist()) == [1, 2, 5]
    again = RetrievalDataset.from_config(data.get_config())
    assert again.get_config() == data.get_config()


def test_folders_of_partitions_are_columns(tmp_path):
    table = pa.table(EVENTS)
    parquet.write_to_dataset(table, tmp_path / "a", partition_cols=["event"])
    parquet.write_to_dataset(table, tmp_path / "u", partition_cols=["userId"])
    (tmp_path / "a" / "_SUCCESS").write_text("")
    data = RetrievalDataset.from_parquet(
        tmp_path / "a", filters={"event": "cart"}, **WHOLE
    )
    assert rows_of(data) == [("bob", 9)]
    data = RetrievalDataset.from_parquet(tmp_path / "u", **WHOLE)
    expected = zip(EVENTS["userId"], EVENTS["Movie ID"], strict=True)
    assert sorted(rows_of(data)) == sorted(expected)


# A file in pieces, and what Arrow does not take.


def plain(lines):
    return [tuple(line.split(",")) for line in lines]


@pytest.mark.parametrize("piece", [7, 64, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_in_pieces_is_read_as_a_whole(
    tmp_path, monkeypatch, piece, end, packed
):
    import gzip

    monkeypatch.setattr(csv_pieces, "PIECE", piece)
    rows = [(f"u{i % 7}", str(i % 11), f"{i % 5 + 1}") for i in range(200)]
    rows[50] = ('"x, ""y""\n z"', "3", '"5"')
    lines = ["\ufeffuser_id,candidate_id,rating", *map(",".join, rows)]
    lines[20] = lines[20] + end  # An empty line after it.
    text = end.join(lines) + end * (piece != 64)
    path = tmp_path / "a.csv"
    path.write_bytes((gzip.compress if packed else bytes)(text.encode()))
    data = RetrievalDataset.from_csv(path, rating_column="rating", **WHOLE)
    rows[50] = ('x, "y"\n z', "3", "5")
    expected = [(user, int(item), float(star)) for user, item, star in rows]
    assert rows_of(data) == expected


@pytest.mark.parametrize("first", [-40, 0])
@pytest.mark.parametrize("piece", [7, 64, 1000])
def test_ids_are_numbers_only_if_all_pieces_have_numbers(
    tmp_path, monkeypatch, piece, first
):
    monkeypatch.setattr(csv_pieces, "PIECE", piece)
    path = tmp_path / "a.csv"
    for odd in ("007", "x", "-0", "+5", "0x1F", "0xFFFFFFFF", " 7", str(2**63)):
        ids = [*map(str, range(first, 40)), odd, "41"]
        lines = ["user_id,candidate_id", *(f"{one},1" for one in ids)]
        path.write_text("\n".join(lines))
        data = RetrievalDataset.from_csv(path, **WHOLE)
        assert [row[0] for row in rows_of(data)] == ids, odd
        path.write_text("\n".join(line for line in lines if odd not in line))
        numbers = RetrievalDataset.from_csv(path, **WHOLE)
        assert numbers.user_vocabulary.ids.dtype == np.int64


@pytest.mark.parametrize("piece", [7, 64, 1000])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("u,5,1,2,3", "Line 73 of .* must have 4 columns. Received: 5"),
        ("u,5", "Line 73 .* Received: 2"),
        ('u,"5"x,1,2', "CSV file. Received, up to line 73"),
        ("u,5,1.5.5,2", "'rating' must hold numbers. .*'1.5.5' in row 71"),
        ("u,5,,2", "'rating' must not have missing .* 1, the first in row 71"),
        ("u,,1,2", "'candidate_id' must not have missing values.* row 71"),
        ("u,5,1,", "'timestamp' must not have missing values.* row 71"),
        ("u,5,inf,2", "must be finite.* row 71: inf"),
        ("u,5,nan,2", "must be finite.* row 71: nan"),
        ("u,5,1e300,2", r"must be finite.* row 71: 1e\+300"),
        ("u,5,9,2", "between 1 and 5. .* row 71: 9"),
        ("u,5,1,2.5", "`timestamps` must be .* row 71: 2.5"),
        ("u,5,1,May", "`timestamps` must be .* row 0: '0'"),
        (f"{'u' * 300},5,1,2", "at most 256 .* 300 in row 71"),
        ("u\udcff,5,1,2", "text in UTF-8. Received, in line 73"),
    ],
)
def test_what_is_wrong_names_its_place_in_any_piece(
    tmp_path, monkeypatch, piece, row, message
):
    monkeypatch.setattr(csv_pieces, "PIECE", piece)
    lines = [f"u{i},{i},{i % 5 + 1},{i}" for i in range(99)]
    lines[71] = row
    path = tmp_path / "a.csv"
    text = "\n".join(["user_id,candidate_id,rating,timestamp", *lines])
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message) as refused:
        RetrievalDataset.from_csv(
            path, rating_column="rating", timestamp_column="timestamp"
        )
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (["1", "2.0", "3e2"], [1, 2, 300]),
        (["1", f"{2**53 + 1}", "2.0"], [1, 2**53 + 1, 2]),
        (["2024-05-01", "2024-05-01T00:00:01", "2024-05-02"], [0, 1, 86_400]),
    ],
)
@pytest.mark.parametrize("piece", [7, 1000])
def test_timestamps_are_read_in_every_way_to_write_them(
    tmp_path, monkeypatch, times, expected, piece
):
    monkeypatch.setattr(csv_pieces, "PIECE", piece)
    path = tmp_path / "a.csv"
    lines = [f"{i},{i},{time}" for i, time in enumerate(times)]
    path.write_text("\n".join(["user_id,candidate_id,time", *lines]))
    data = RetrievalDataset.from_csv(path, timestamp_column="time", **WHOLE)
    read = np.array([row[2] for row in rows_of(data)])
    if "-" in times[0]:
        read = (read - read[0]) // 10**9
    assert read.tolist() == expected


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text("user_id,candidate_id\n1,2\n")
    before = csv_pieces.Pieces.first_line

    def written_to(self):
        with open(path, "a") as file:
            file.write("3,4\n")
        return before(self)

    monkeypatch.setattr(csv_pieces.Pieces, "first_line", written_to)
    with pytest.raises(ValueError, match="must not change while it is read"):
        RetrievalDataset.from_csv(path)


def test_a_parquet_file_that_changes_while_it_is_read_is_refused(
    tmp_path, monkeypatch
):
    path = tmp_path / "a.parquet"
    table = pa.table({"user_id": [1, 2], "candidate_id": [3, 4]})
    parquet.write_table(table, path)
    before = parquet_files._read

    def written_to(*arguments):
        read = before(*arguments)
        parquet.write_table(table.slice(1), path)
        return read

    monkeypatch.setattr(parquet_files, "_read", written_to)
    with pytest.raises(ValueError, match=r"a.parquet' must not change while"):
        RetrievalDataset.from_parquet(path)


def test_a_small_parquet_file_that_unpacks_to_very_much_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    num = 20_000_000
    ones = pa.repeat(1, num)
    table = pa.table({"user_id": ones, "candidate_id": ones})
    parquet.write_table(table, path, row_group_size=num)
    assert path.stat().st_size < 200_000
    with pytest.raises(ValueError, match="unpack to more than 200 times"):
        RetrievalDataset.from_parquet(path)


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("user_id", ["a", "", "c" * 300], "at most 256 .* 300 in row 2"),
        ("user_id", ["a", "b", "c\0"], "NUL character.* in row 2"),
        ("user_id", [1, 2, None], "missing values.* row 2"),
        ("candidate_id", [1, 2, 2**63], "into 64 bits .* in row 2"),
        ("candidate_id", [1, 2, -1], "must not be -1.* in row 2"),
        ("candidate_id", [1.0, 2.0, 3.5], "such as 3.5|such as 1.0"),
        ("rating", [1, 2, NAN], "finite.* row 2: nan"),
        ("rating", [1, 2, INFINITY], "finite.* row 2: inf"),
        ("rating", [1, 2, 1e300], r"finite.* row 2: 1e\+300"),
        ("rating", [1, 2, -3], "between 1 and 5.* row 2: -3"),
        ("rating", ["1", "2", "3"], "numbers. Received: '1' in row 0"),
        ("timestamp", [1, 2, 2.5], "whole numbers .* row 2: 2.5"),
        ("timestamp", [1, 2, NAN], "none missing.* row 2: nan"),
        ("timestamp", [1, 2, 2**63], "of 64 bits.* row 2: 92233"),
        ("weight", [1, 2, -1], "greater than 0.* row 2: -1"),
        ("weight", [1, 2, NAN], "finite.* row 2: nan"),
    ],
)
def test_what_is_wrong_in_parquet_names_file_and_row(
    tmp_path, column, values, message
):
    path = tmp_path / "a.parquet"
    of_64_bits = 2**63 in values
    columns = {
        "user_id": [1, 2, 3],
        "candidate_id": [1, 2, 3],
        column: pa.array(values, pa.uint64() if of_64_bits else None),
    }
    parquet.write_table(pa.table(columns), path)
    optional = {
        f"{name}_column": name if name == column else None
        for name in ("rating", "timestamp", "weight")
    }
    with pytest.raises(ValueError, match=message) as refused:
        RetrievalDataset.from_parquet(path, **optional)
    assert str(path) in str(refused.value)


def test_a_column_that_is_there_twice_is_refused_in_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    names = ["user_id", "user_id", "candidate_id"]
    ids = [pa.array([1, 2])] * 3
    parquet.write_table(pa.Table.from_arrays(ids, names=names), path)
    with pytest.raises(ValueError, match=r"a.parquet.* duplicate field names"):
        RetrievalDataset.from_parquet(path)


def test_twins_of_unicode_stay_apart(tmp_path):
    # They look the same, but whoever wrote them both meant two ids.
    path = tmp_path / "a.csv"
    path.write_text("user_id,candidate_id\ne\u0301,1\n\u00e9,1\n", "utf-8")
    data = RetrievalDataset.from_csv(path, **WHOLE)
    assert isinstance(data.user_vocabulary, Vocabulary)
    assert data.num_users == 3
    twins = pa.table({"user_id": ["e\u0301", "\u00e9"], "candidate_id": [1, 1]})
    parquet.write_table(twins, tmp_path / "a.parquet")
    data = RetrievalDataset.from_parquet(tmp_path / "a.parquet", **WHOLE)
    assert data.num_users == 3


def test_what_is_written_into_a_frame_later_changes_nothing():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "user_id": [1, 1, 2],
            "candidate_id": [4, 5, 4],
            "rating": np.array([1, 2, 3], np.float32),
            "timestamp": [7, 8, 9],
            "weight": np.array([1, 2, 3], np.float32),
        }
    )
    data = RetrievalDataset.from_dataframe(
        frame,
        rating_column="rating",
        timestamp_column="timestamp",
        weight_column="weight",
        **WHOLE,
    )
    before = data.get_config()
    for name in frame:
        frame.loc[0, name] = 4
    assert data.get_config() == before
    # A view that is read-only belongs to somebody as well.
    ratings = np.array([1, 2, 3], np.float32)
    view = ratings.view()
    view.flags.writeable = False
    data = RetrievalDataset([1, 1, 2], [4, 5, 4], view, **WHOLE)
    ratings[:] = 5
    assert data.get_config()["ratings"] == [1, 2, 3]
