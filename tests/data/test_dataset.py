"""The user's own interactions: parts, batches, epochs, files."""

import gzip
import json
import tracemalloc
import warnings

import keras
import numpy as np
import pytest

from keras_dp_retrieval.data.batch_sources import source_of
from keras_dp_retrieval.data.dataset import RetrievalDataset

pytestmark = pytest.mark.filterwarnings("ignore:.*test interactions")


def made_up(num=103, seed=0, with_ratings=True, **options):
    rng = np.random.default_rng(seed)
    return RetrievalDataset.from_interactions(
        rng.integers(10, 30, size=num),
        rng.integers(100, 140, size=num),
        rng.integers(1, 6, size=num) if with_ratings else None,
        np.arange(num),
        **{"batch_size": 10, **options},
    )


def real_rows(dataset):
    """All rows of weight 1, as `(user, candidate, rating)`, in order."""
    rows = []
    for x, y, *weights in dataset.as_numpy_iterator():
        columns = np.stack([x, y["candidate_id"], y["rating"]], axis=1)
        rows.append(columns[weights[0] == 1] if weights else columns)
    return np.concatenate(rows)


def expected_rows(ratings):
    return np.stack(
        [
            ratings.user_rows,
            ratings.candidate_rows,
            (ratings.ratings - 1) / 4,
        ],
        axis=1,
    )


def in_order(rows):
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize("num_devices", [1, 2, 8])
@pytest.mark.parametrize("batch_size", [1, 7, 10, 1000])
def test_batches_hold_every_row_once_on_any_number_of_devices(
    on_devices, num_devices, batch_size
):
    on_devices(num_devices)
    data = made_up(batch_size=batch_size)
    for part in ("train", "validation", "test"):
        dataset = getattr(data, part)
        sizes = {len(x) for x, *_ in dataset.as_numpy_iterator()}
        assert len(sizes) == 1
        size = sizes.pop()
        assert size % num_devices == 0
        assert size - batch_size < num_devices
        assert dataset.element_spec[0].shape == (size,)
        np.testing.assert_array_equal(
            in_order(real_rows(dataset)),
            in_order(expected_rows(data.ratings(part))),
        )
        assert int(dataset.cardinality()) == len(list(dataset))
    assert data.steps_per_epoch == int(data.train.cardinality())


def test_batches_are_full_but_the_last(on_devices):
    on_devices(8)
    data = made_up(batch_size=10)  # 74 train rows: 7 batches of 10, one of 4
    weights = [w.sum() for _, _, w in data.train.as_numpy_iterator()]
    assert weights == [10] * 7 + [4]


def test_there_are_no_weights_where_no_row_is_padding():
    data = made_up(num=100, validation_fraction=0)  # 80 in batches of 10
    x, y = next(data.train.as_numpy_iterator())
    assert x.dtype == np.int32
    assert y["candidate_id"].dtype == np.int32
    assert y["rating"].dtype == np.float32


def test_padding_repeats_valid_rows(on_devices):
    on_devices(8)
    data = made_up(batch_size=3)
    pairs = set(map(tuple, expected_rows(data.ratings("train"))))
    for x, y, _ in data.train.as_numpy_iterator():
        for row in zip(x, y["candidate_id"], y["rating"], strict=True):
            assert tuple(row) in pairs


def test_rating_is_absent_where_there_are_none():
    _, y, _ = next(made_up(with_ratings=False).train.as_numpy_iterator())
    assert list(y) == ["candidate_id"]


def test_keys_and_scale_of_the_labels_can_be_chosen():
    data = RetrievalDataset.from_interactions(
        [1, 2],
        [1, 2],
        [0, 10],
        test_fraction=0,
        validation_fraction=0,
        batch_size=2,
        candidate_key="item",
        rating_key="score",
        rating_range=(0, 10),
    )
    _, y = next(data.train.as_numpy_iterator())
    assert sorted(y["score"].tolist()) == [0, 1]
    assert set(y) == {"item", "score"}
    assert data.validation is None
    assert data.test is None


def test_order_of_an_epoch_is_a_function_of_seed_and_epoch():
    data, same, other = made_up(), made_up(), made_up(seed=1)
    epochs = [real_rows(data.train) for _ in range(3)]
    assert (epochs[0] != epochs[1]).any()
    same.start_at_epoch(2)
    np.testing.assert_array_equal(real_rows(same.train), epochs[2])
    source_of(same.train).start_at_epoch(1)
    np.testing.assert_array_equal(real_rows(same.train), epochs[1])
    assert (real_rows(other.train) != epochs[0]).any()


def test_a_pass_that_is_broken_off_does_not_count():
    data = made_up()
    first = real_rows(made_up().train)
    # Keras looks at one batch to build a model, then starts again.
    next(iter(data.train))
    for _ in zip(range(5), data.train, strict=False):
        pass
    np.testing.assert_array_equal(real_rows(data.train), first)


def test_fit_counts_epochs_from_its_first_whatever_is_built_before():
    seen = []

    class Spy(keras.Model):
        def __init__(self):
            super().__init__()
            self.table = keras.layers.Embedding(50, 2)

        def call(self, x):
            return self.table(x)

        def compute_loss(self, x, y, y_pred, sample_weight=None, **kwargs):
            return keras.ops.mean(y_pred)

    data = made_up()
    watched = data.train.map(lambda x, y, w: (_record(seen, x), y, w))
    model = Spy()
    model.compile("sgd")
    model.fit(watched, epochs=3, verbose=0)
    expected = made_up()
    batches = [
        x for _ in range(3) for x, *_ in expected.train.as_numpy_iterator()
    ]
    np.testing.assert_array_equal(seen[-24:], batches)


def _record(seen, x):
    import tensorflow as tf

    def note(value):
        seen.append(value)
        return value

    noted = tf.numpy_function(note, [x], tf.int32)
    noted.set_shape(x.shape)
    return noted


def test_long_passes_are_looked_up_in_pieces(monkeypatch):
    from keras_dp_retrieval.data import pipelines

    whole = made_up(num=1_000)
    monkeypatch.setattr(pipelines, "_EXAMPLES_A_CALL", 64)
    pieces = made_up(num=1_000)
    for _ in range(2):
        np.testing.assert_array_equal(
            real_rows(pieces.train), real_rows(whole.train)
        )


@pytest.mark.parametrize("num_examples_a_call", [1, 64, 2**18])
@pytest.mark.parametrize("part", ["train", "test"])
def test_numpy_groups_are_what_tensorflow_would_give(
    monkeypatch, part, num_examples_a_call
):
    from keras_dp_retrieval.data import pipelines

    monkeypatch.setattr(pipelines, "_EXAMPLES_A_CALL", num_examples_a_call)
    fast, slow = (getattr(made_up(num=107), part) for _ in range(2))
    for steps in (1, 3, 100):  # Each pass is another epoch.
        expected = list(slow.as_numpy_iterator())
        groups = list(source_of(fast).numpy_groups(steps))
        assert len(groups) == -(-len(expected) // steps)
        got = [
            (x[i], {key: column[i] for key, column in y.items()}, w[i])
            for x, y, w in groups
            for i in range(len(x))
        ]
        for (x, y, w), (x_too, y_too, w_too) in zip(got, expected, strict=True):
            np.testing.assert_array_equal(w, w_too)
            real = w != 0  # Which valid rows are padding is no matter.
            np.testing.assert_array_equal(x[real], x_too[real])
            for key in ("candidate_id", "rating"):
                np.testing.assert_array_equal(y[key][real], y_too[key][real])


@pytest.mark.parametrize(
    "make",
    [
        lambda data: data.train,
        lambda data: data.test,
        lambda data: data.by_interaction(),
        lambda data: data.by_user(4),
        lambda data: data.next_items(8),
    ],
    ids=["train", "test", "by_interaction", "by_user", "next_items"],
)
@pytest.mark.parametrize("batch_size", [10, 1000])
def test_every_data_set_says_what_its_next_pass_begins_with(make, batch_size):
    """In pass after pass, and in one that consists of a single batch."""
    dataset = make(made_up(batch_size=batch_size))
    resumed = source_of(make(made_up(batch_size=batch_size)))
    source = source_of(dataset)
    for epoch in range(3):
        resumed.start_at_epoch(epoch)
        assert resumed.identity() == source.identity()
        looks = source.first_batch(), resumed.first_batch()
        first, *_ = list(dataset)
        for look in looks:
            for got, expected in zip(
                *map(keras.tree.flatten, (look, first)), strict=True
            ):
                np.testing.assert_array_equal(got, expected)


def test_a_data_set_made_of_another_has_no_source():
    train = made_up().train
    for other in (train.map(lambda *batch: batch), [1, 2], "train", None):
        assert source_of(other) is None


def test_numpy_groups_broken_off_do_not_count():
    data = made_up()
    train = made_up().train
    first, *_ = source_of(train).numpy_groups(100)
    for _ in zip(range(7), source_of(data.train).numpy_groups(1), strict=False):
        pass  # The eighth would have been the last.
    again, *_ = source_of(data.train).numpy_groups(100)
    np.testing.assert_array_equal(again[0], first[0])


def test_given_test_part_is_used_as_it_is():
    data = RetrievalDataset.from_interactions(
        ["a", "b", "b", "a"],
        [1, 2, 3, 4],
        test=(["c", "a"], [9, 3]),
        validation_fraction=0.25,
    )
    test = data.ratings("test")
    assert data.user_vocabulary.raw_ids(test.user_rows).tolist() == ["c", "a"]
    np.testing.assert_array_equal(
        data.candidate_vocabulary.raw_ids(test.candidate_rows), [9, 3]
    )
    assert len(data.ratings("train")) == 3
    assert len(data.ratings("validation")) == 1
    assert data.leakage.num_unseen_users == 1
    assert data.num_users == 4  # Unknown, a, b, and c of the test part.


def test_given_validation_part_is_used_as_it_is():
    data = RetrievalDataset.from_interactions(
        [1, 2], [1, 2], validation=([3], [4]), test_fraction=0
    )
    assert len(data.ratings("train")) == 2
    assert data.ratings("validation").user_rows.tolist() == [3]
    with pytest.raises(ValueError, match="must have timestamps if and only"):
        RetrievalDataset.from_interactions(
            [1, 2], [1, 2], timestamps=[1, 2], validation=([3], [4])
        )


def test_what_is_known_before_each_part():
    data = made_up(split="by_time")

    def total(interactions):
        return sum(map(len, interactions.of(np.arange(data.num_users))))

    num_train = len(data.ratings("train"))
    num_validation = len(data.ratings("validation"))
    assert total(data.seen) == num_train
    assert total(data.seen_before("train")) == 0
    assert total(data.seen_before("validation")) == num_train
    assert total(data.seen_before("test")) == num_train + num_validation
    user = data.ratings("train").user_rows[0]
    before = data.seen_before("test").of([user])[0]
    earlier = data.seen.of([user])[0]
    np.testing.assert_array_equal(before[: len(earlier)], earlier)


def test_refit_learns_from_validation_and_keeps_the_test_part():
    data = made_up()
    _ = data.train, data.seen  # What is cached must not be carried over.
    refit = data.with_validation_in_train()
    assert len(refit.ratings("train")) == 74 + 8
    assert refit.validation is None
    np.testing.assert_array_equal(
        expected_rows(refit.ratings("test")),
        expected_rows(data.ratings("test")),
    )
    assert len(real_rows(refit.train)) == 82
    assert len(real_rows(data.train)) == 74
    again = RetrievalDataset.from_config(refit.get_config())
    assert len(again.ratings("train")) == 82


def test_candidates_are_counted_per_part():
    data = made_up()
    counts = data.candidate_counts()
    assert counts.shape == (data.num_candidates,)
    assert counts[0] == 0
    assert counts.sum() == 74
    assert data.candidate_counts("test").sum() == len(data.ratings("test"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "half"}, "`split` must be one of"),
        ({"split": "tutorial"}, "100,000"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"ratings": [1, 2, 7]}, "between 1 and 5. Received 1 .* row 2: 7"),
        ({"ratings": [1, 2, np.nan]}, "finite"),
        ({"split": "by_time"}, "needs timestamps"),
        ({"test": [1, 2, 3]}, "`test` must be `.user_ids, candidate_ids.`"),
        ({"test": ([1], [1, 2])}, "of the test part must have one entry"),
        ({"test": ([], [])}, "test part must have at least one row"),
        ({"test": (["a"], [1])}, "all whole numbers or all strings"),
        *(
            ({"rating_range": wrong}, r"`rating_range` must be two finite num")
            for wrong in (
                *((5, 1), (1, 1), (1,), (1, 2, 3), None, 5, "15", ("1", "5")),
                *((-np.inf, 5), (1, np.nan), (0, 1e39), (-3e38, 3e38)),
                *((0, 1e-60), ([1], [5]), (None, 5), (True, False)),
            )
        ),
        ({"candidate_key": "rating"}, "must differ"),
        ({"candidate_key": 5}, "`candidate_key` must be a string.*key=5"),
        ({"rating_key": None}, "`rating_key` must be a string.*key=None"),
        ({"candidate_key": ""}, "`candidate_key` must be a string"),
        ({"test": ([[1], [2, 3]], [1, 2])}, "one-dimensional"),
        ({"test": (5, [1])}, "`test` must be `.user_ids, candidate_ids.`"),
        ({"candidate_titles": ["ab", "c"]}, "must be a dict from candidate"),
        ({"candidate_titles": {"1": "One"}}, "of the type of the candidates"),
        ({"candidate_titles": {1: np.nan}}, "be strings. Received: nan for 1"),
        ({"candidate_titles": {1: "One", None: "?"}}, "missing values"),
        ({"test_fraction": 0.9}, "train part must have interactions"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RetrievalDataset([1, 2, 3], [1, 2, 3], **arguments)


def test_titles_can_be_a_series():
    pandas = pytest.importorskip("pandas")
    titles = pandas.Series(["One", "Two"], index=[1, 2])
    data = RetrievalDataset([1, 2, 3], [1, 2, 3], candidate_titles=titles)
    assert data.candidate_titles == {1: "One", 2: "Two"}
    json.dumps(data.get_config())
    twice = pandas.Series(["One", "Two"], index=[1, 1])
    with pytest.raises(ValueError, match="each id once in its index"):
        RetrievalDataset([1, 2, 3], [1, 2, 3], candidate_titles=twice)
    none = pandas.Series([], dtype=str)
    assert not RetrievalDataset(
        [1] * 9, [1] * 9, candidate_titles=none
    )._raw_data.titles


@pytest.mark.parametrize("data", [None, [1, 2], {"user_id": [1]}])
def test_a_model_is_made_for_a_data_set(data):
    from keras_dp_retrieval.model import TwoTowerRetrieval

    with pytest.raises(ValueError, match="`data` must be a `RetrievalDataset`"):
        TwoTowerRetrieval.for_dataset(data)


def test_no_interactions_are_refused():
    with pytest.raises(ValueError, match="at least one row"):
        RetrievalDataset.from_interactions([], [])


@pytest.mark.parametrize("ids", [int, str])
def test_config_survives_json(ids):
    data = RetrievalDataset.from_interactions(
        [ids(u) for u in (3, 1, 2, 1)],
        [ids(c) for c in (7, 8, 9, 9)],
        [1, 2, 3, 4],
        [4, 3, 2, 1],
        test=([ids(1)], [ids(7)]),
        candidate_titles={ids(7): "Seven"},
        split="by_time",
        batch_size=2,
    )
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(data)))
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == data.get_config()
    assert again.candidate_titles == {ids(7): "Seven"}
    for part in ("train", "validation", "test"):
        ours, theirs = data.ratings(part), again.ratings(part)
        np.testing.assert_array_equal(ours.user_rows, theirs.user_rows)
        np.testing.assert_array_equal(
            ours.candidate_rows, theirs.candidate_rows
        )


def test_leakage_is_said_when_the_data_set_is_made():
    with pytest.warns(UserWarning, match="older than the newest one learned"):
        data = made_up()
    with pytest.warns(UserWarning, match="2 of 2 test interactions are also"):
        RetrievalDataset([1] * 10, [1] * 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.with_validation_in_train().ratings("train")
        RetrievalDataset(range(20), range(20), None, range(20), split="by_time")


def write_csv(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_csv_pandas_and_parquet_give_the_same(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame(
        {
            "who": ["ann", "bob", "ann", "cat, the"],
            "what": [7, 8, 9, 7],
            "stars": [1.0, 2.5, 5.0, 3.0],
            "when": [4, 3, 2, 1],
        }
    )
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    names = {
        "user_column": "who",
        "candidate_column": "what",
        "rating_column": "stars",
        "timestamp_column": "when",
    }
    frame.to_csv(tmp_path / "semicolons.csv", index=False, sep=";")
    frame.to_csv(tmp_path / "tabs.tsv", index=False, sep="\t")
    frame.to_csv(tmp_path / "packed.csv.gz", index=False, sep=";")
    pyarrow = pytest.importorskip("pyarrow")
    frames = [frame, pyarrow.table(dict(frame)), dict(frame)]
    files = ["a.csv", "semicolons.csv", "tabs.tsv", "packed.csv.gz"]
    made = [
        *(RetrievalDataset.from_dataframe(one, **names) for one in frames),
        *(RetrievalDataset.from_csv(tmp_path / one, **names) for one in files),
        RetrievalDataset.from_parquet(tmp_path / "a.parquet", **names),
    ]
    configs = [data.get_config() for data in made]
    assert configs[0]["user_ids"] == ["ann", "bob", "ann", "cat, the"]
    for config in configs:
        assert config == configs[0]


def test_dates_are_read_from_every_kind_of_file(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    times = pandas.date_range("2024-05-01", periods=3, tz="Europe/Paris")
    frame = pandas.DataFrame(
        {"user_id": [1, 2, 3], "candidate_id": [4, 5, 6], "when": times}
    )
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    for read, source in (
        (RetrievalDataset.from_dataframe, frame),
        (RetrievalDataset.from_csv, tmp_path / "a.csv"),
        (RetrievalDataset.from_parquet, tmp_path / "a.parquet"),
    ):
        data = read(source, timestamp_column="when")
        first = 1_714_514_400 * 10**9  # 2024-04-30T22:00:00Z
        days = [first + day * 86_400 * 10**9 for day in range(3)]
        assert data.get_config()["timestamps"] == days


def test_ids_written_with_zeros_in_front_stay_apart(tmp_path):
    path = write_csv(
        tmp_path / "a.csv", ["user_id,candidate_id", "7,1", "007,1"]
    )
    data = RetrievalDataset.from_csv(path)
    assert data.user_vocabulary.ids.tolist() == ["007", "7"]
    assert data.candidate_vocabulary.ids.tolist() == [1]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["who,candidate_id", "1,2"], r"Missing: \['user_id'\]"),
        (["user_id,candidate_id"], "at least one row"),
        (["user_id,candidate_id", "1,2", "3"], "Line 3 .* 2 columns"),
        (["user_id,candidate_id", "1,2", ",3"], "missing values.*row 1"),
        (["user_id,user_id,candidate_id", "1,1,2"], "each column once"),
        (["user_id,candidate_id", 'a,"b', "c,d"], "CSV file.*a quote too many"),
        (["user_id,candidate_id", '"a"b,c'], "CSV file.* line 2"),
        (["user_id,candidate_id", "a,b", "a\0,b"], "NUL character.* in row 1"),
        (
            ["user_id,candidate_id", 'a"b,1', '"b' + "," * 150_000],
            "field larger",
        ),
        (
            ["user_id,candidate_id", '"a', "," * 150_000 + '",b'],
            "at most 256 .* in row 0",
        ),
        (["user_id,candidate_id", "a" * 2**20], "Line 2 .* must have at most"),
        (["user_id,candidate_id", "a" * 1000 + ",b"], "at most 256 characters"),
    ],
)
def test_bad_csv_files_are_refused(tmp_path, lines, message):
    path = write_csv(tmp_path / "a.csv", lines)
    with pytest.raises(ValueError, match=message):
        RetrievalDataset.from_csv(path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (
            "rating",
            "3,5",
            "'stars' must hold numbers. Received: '3,5' in row 1",
        ),
        ("timestamp", "monday", "`timestamps` must be .*row 0: '3'"),
        ("timestamp", "1.5", "`timestamps` must be .*row 1: 1.5"),
        ("timestamp", "9" * 30, "`timestamps` must be .*64 bits.* row 1"),
    ],
)
def test_bad_values_in_csv_files_name_their_row(
    tmp_path, column, value, message
):
    lines = ["user_id;candidate_id;stars", "1;2;3", f"1;2;{value}"]
    path = write_csv(tmp_path / "a.csv", lines)
    with pytest.raises(ValueError, match=message):
        RetrievalDataset.from_csv(path, **{f"{column}_column": "stars"})


def test_one_long_field_costs_no_more_than_itself(tmp_path):
    # As an array of strings, 100,000 rows as wide as this take 37 GB.
    lines = ["user_id,candidate_id", "u" * 50_000 + ",1"] + ["1,2"] * 100_000
    path = write_csv(tmp_path / "a.csv", lines)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"50,000 in row 0.*stray quote"):
            RetrievalDataset.from_csv(path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 100e6


def test_whole_numbers_beyond_64_bits_are_strings_in_csv_files(tmp_path):
    lines = ["user_id,candidate_id", f"{2**64},1", f"{2**64 + 1},1"]
    data = RetrievalDataset.from_csv(write_csv(tmp_path / "a.csv", lines))
    assert data.user_vocabulary.ids.tolist() == [str(2**64), str(2**64 + 1)]


def test_damaged_and_foreign_csv_files_are_refused(tmp_path):
    text = "user_id,candidate_id\n" + "1,2\n" * 1000
    packed = gzip.compress(text.encode())
    changed = bytearray(packed)
    changed[len(packed) // 2] ^= 255
    for content, message in (
        (packed[:-10], "damaged or incomplete"),
        (packed[:15], "damaged or incomplete"),
        (bytes(changed), "damaged or incomplete"),
        (b"\x1f\x8b nothing of the kind", "damaged or incomplete"),
        ("user_id,candidate_id\né,1\n".encode("latin-1"), "text in UTF-8"),
        (text.encode("utf-16"), "text in UTF-8"),
        (b"PAR1\xff\xfe", "text in UTF-8"),
        (b"", "Missing:"),
    ):
        path = tmp_path / "a.csv.gz"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            RetrievalDataset.from_csv(path)
    for path, message in ((tmp_path, "the folder"), (None, "must be a path")):
        with pytest.raises(ValueError, match=message):
            RetrievalDataset.from_csv(path)


@pytest.mark.parametrize("line", ["1,2\n", "1"])
def test_a_packed_file_that_unpacks_to_too_much_is_given_up(
    tmp_path, monkeypatch, line
):
    from keras_dp_retrieval.data.readers import limits

    monkeypatch.setattr(limits, "HARMLESS_SIZE", 2**16)
    monkeypatch.setattr(limits, "MOST_GROWTH", 20)
    text = "user_id,candidate_id\n" + line * 1_000_000
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"unpack to more|at most 1,048,5"):
            RetrievalDataset.from_csv(path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 30e6


def test_damaged_and_foreign_parquet_files_are_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    ids = [f"user {i}" for i in range(1000)]
    table = pyarrow.table({"user_id": ids, "candidate_id": range(1000)})
    parquet.write_table(table, path)
    whole = path.read_bytes()
    for content in (
        *(b"", b"PAR1PAR1", b"user_id,candidate_id\n1,2\n"),
        *(whole[: len(whole) // 2], whole[:-4], whole[4:]),
        whole[:60] + b"\xff" * 400 + whole[460:],
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="must be a Parquet file, or a fo"):
            RetrievalDataset.from_parquet(path)


def test_parquet_columns_of_other_kinds_are_read_or_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    strings = pyarrow.array(["a", "b"])
    for users, message in (
        (strings, None),
        (strings.dictionary_encode(), None),
        (strings.cast(pyarrow.large_string()), None),
        (pyarrow.array([1, 2], pyarrow.uint16()), None),
        (pyarrow.array([[1], [2]]), "one-dimensional"),
        (pyarrow.array([{"a": 1}, {"a": 2}]), "one-dimensional"),
        (pyarrow.array([b"a", b"b"]), "Decode"),
        (pyarrow.array([True, False]), "of type bool"),
        (pyarrow.array(["a", "b" * 300]), "at most 256 .* in row 1"),
        (pyarrow.array([None, "a"]), "missing values.* row 0"),
        (pyarrow.nulls(2), "missing values"),
    ):
        table = pyarrow.table({"user_id": users, "candidate_id": [1, 2]})
        parquet.write_table(table, tmp_path / "a.parquet")
        if message is None:
            data = RetrievalDataset.from_parquet(tmp_path / "a.parquet")
            assert data.num_users == 3
        else:
            with pytest.raises(ValueError, match=message):
                RetrievalDataset.from_parquet(tmp_path / "a.parquet")


@pytest.mark.parametrize("frame", [None, 5, [1], "a.csv"])
def test_what_is_no_frame_is_refused(frame):
    with pytest.raises(ValueError, match="`frame` must be a data frame"):
        RetrievalDataset.from_dataframe(frame)


def test_missing_files_are_refused(tmp_path):
    for read in (RetrievalDataset.from_csv, RetrievalDataset.from_parquet):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            read(tmp_path / "nowhere")


def test_parquet_ids_with_gaps_are_refused_and_not_rounded(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table(
        {"user_id": [2**60 + 1, None], "candidate_id": [1, 2]}
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="missing values"):
        RetrievalDataset.from_parquet(tmp_path / "a.parquet")


class Plain(keras.Model):
    """A plain Keras model, not of this package."""

    def __init__(self, data):
        super().__init__()
        self.users = keras.layers.Embedding(data.num_users, 2)
        self.score = keras.layers.Dense(1)

    def call(self, users):
        return self.score(self.users(users))

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        errors = (y_pred[:, 0] - y["rating"]) ** 2
        return keras.ops.mean(
            errors * (1.0 if sample_weight is None else sample_weight)
        )


def test_a_distribution_may_be_set_after_the_data_set(on_devices):
    """In a model of anybody's; all rows divide, and padding has weight 0."""
    rng = np.random.default_rng(0)
    users, items = rng.integers(1, 20, (2, 130))
    data = RetrievalDataset.from_interactions(
        users, items, np.full(130, 3.0), batch_size=33, seed=0
    )
    before = data.train
    assert data.train is before
    on_devices(4)
    model = Plain(data)
    model.compile("sgd")
    model.fit(data.train, validation_data=data.validation, verbose=0)
    assert data.train is not before
    for part in ("train", "validation", "test"):
        batches = list(getattr(data, part))
        assert {len(x) for x, _, _ in batches} == {36}
        real = sum(int(np.sum(weights)) for _, _, weights in batches)
        assert real == len(data.ratings(part))


@pytest.mark.parametrize("num_devices", [1, 8])
@pytest.mark.parametrize("batch_size", [6, 10**9])
def test_users_and_next_items_are_padded_as_train_is(
    on_devices, num_devices, batch_size
):
    """So that anybody's model takes them: batches of one size that divides."""
    data = made_up()
    for method in ("by_user", "next_items"):
        on_devices(1)
        examples = [
            tuple(rows[0] for rows in keras.tree.flatten(x))
            for x, _ in getattr(data, method)(1).as_numpy_iterator()
        ]
        on_devices(num_devices)
        dataset = getattr(data, method)(batch_size)
        size = -(-min(batch_size, len(examples)) // num_devices) * num_devices
        found = []
        for x, y, *weights in dataset.as_numpy_iterator():
            columns = keras.tree.flatten(x)
            assert {len(rows) for rows in [*columns, *y.values()]} == {size}
            real = weights[0] == 1 if weights else np.ones(size, bool)
            assert not weights or np.all(weights[0][~real] == 0)
            found += zip(*(rows[real] for rows in columns), strict=True)
        assert sorted(found) == sorted(examples)
        assert dataset.element_spec[1]["candidate_id"].shape[0] == size
        source = source_of(dataset)
        assert len(keras.tree.flatten(source.first_batch())[0]) == size


def test_a_batch_larger_than_the_data_is_as_large_as_the_data(on_devices):
    on_devices(4)
    data = RetrievalDataset.from_synthetic(30, 20, 300, batch_size=10**9)
    for part in ("train", "validation", "test"):
        ((x, _, *weights),) = getattr(data, part)
        assert len(x) == -(-len(data.ratings("train")) // 4) * 4
        real = weights[0].numpy().sum() if weights else len(x)
        assert real == len(data.ratings(part))
    assert data.steps_per_epoch == 1


def test_the_old_name_of_the_titles_still_works():
    data = RetrievalDataset([1, 2] * 9, [1, 2] * 9, candidate_titles={1: "One"})
    with pytest.warns(FutureWarning, match="`candidate_titles`.* until .*0.3"):
        titles = data.movie_titles
    assert titles == data.candidate_titles == {1: "One"}


def test_a_model_of_another_candidate_key_names_both():
    from keras_dp_retrieval.model import TwoTowerRetrieval

    data = RetrievalDataset.from_synthetic(20, 30, 250)
    model = TwoTowerRetrieval(data.num_users, data.num_candidates, 2)
    model.compile("adagrad")
    with pytest.raises(ValueError, match=r"'movie_id'.*'candidate_id'"):
        model.fit(data.train, verbose=0)
