"""When it was: the same moments are the same numbers, in the same order."""

import datetime
import itertools

import numpy as np
import pytest

from keras_dp_retrieval.data.dataset import RetrievalDataset
from keras_dp_retrieval.data.timestamps import _from_list, timestamp_column

NOON = 1_714_564_800_000_000_000  # 2024-05-01T12:00:00Z, in nanoseconds
SECOND = 1_000_000_000
PLUS_2 = datetime.timezone(datetime.timedelta(hours=2))


def noon_and_a_second_later():
    pandas = pytest.importorskip("pandas")
    polars = pytest.importorskip("polars")
    pyarrow = pytest.importorskip("pyarrow")
    texts = ["2024-05-01T12:00:00", "2024-05-01T12:00:01"]
    naive = [datetime.datetime.fromisoformat(text) for text in texts]
    zoned = [
        one.replace(tzinfo=datetime.UTC).astimezone(PLUS_2) for one in naive
    ]
    series = pandas.Series(naive)
    paris = series.dt.tz_localize("UTC").dt.tz_convert("Europe/Paris")
    made = {
        "datetime": naive,
        "datetime with a zone": zoned,
        "NumPy s": np.array(texts, "M8[s]"),
        "NumPy ns": np.array(texts, "M8[ns]"),
        "NumPy us": np.array(texts, "M8[us]"),
        "NumPy scalars": [np.datetime64(text) for text in texts],
        "Series": series,
        "Series with a zone": paris,
        "Series of objects": paris.astype(object),
        "Timestamps": list(paris),
        "Index with a zone": pandas.DatetimeIndex(paris),
        "Arrow dates in pandas": paris.astype(
            "timestamp[us, Europe/Paris][pyarrow]"
        ),
        "polars": polars.Series(zoned),
        "Arrow": pyarrow.array(zoned, pyarrow.timestamp("ms", "Europe/Paris")),
        "ISO": texts,
        "ISO of NumPy": np.array(texts),
        "ISO with a blank": [text.replace("T", " ") for text in texts],
        "ISO in UTC": [text + "Z" for text in texts],
        "ISO with a zone": [one.isoformat() for one in zoned],
        "ISO +HHMM": [one.strftime("%Y-%m-%d %H:%M:%S %z") for one in zoned],
        "ISO of pandas": list(paris.astype(str)),
    }
    west = ["2024-05-01T06:30:00-05:30", "2024-05-01T06:30:01.000-05:30"]
    return {**made, "ISO in the west": west}


def test_dates_of_every_kind_are_the_same_moments():
    for kind, dates in noon_and_a_second_later().items():
        times, has_dates = timestamp_column(dates)
        assert (times - NOON).tolist() == [0, SECOND], kind
        assert has_dates, kind


def test_arrow_reads_dates_as_line_by_line():
    """Whatever way a date is written: the same moment, or an error."""
    days = ["2024-02-29", "1678-01-01", "2261-12-31", "2023-02-29", "24-1-1"]
    times = ["", "T12", "T12:30", " 12:30:07", "T12:30:07.5", "T24:00"]
    fractions = ["", ".123456789", ",5"]
    zones = ["", "Z", "z", "+02", "-0530", " +02:00", "+02:00"]
    read = 0
    for parts in itertools.product(days, times, fractions, zones):
        texts = ["".join(parts)] * 2
        try:
            expected = _from_list(texts)
        except ValueError:
            with pytest.raises(ValueError, match="row 0"):
                timestamp_column(texts)
        else:
            assert timestamp_column(texts)[0].tolist() == expected.tolist()
            read += 1
    assert read > 100


def test_days_begin_at_midnight():
    for days in (
        [datetime.date(1970, 1, 2)],
        np.array(["1970-01-02"], "M8[D]"),
        ["1970-01-02"],
    ):
        assert timestamp_column(days)[0].tolist() == [86_400 * SECOND]


def test_nanoseconds_keep_their_order():
    pandas = pytest.importorskip("pandas")
    nanoseconds = [0, 1, 2, 999, 1001]
    dates = np.array(nanoseconds, "M8[ns]")
    texts = [f"1970-01-01T00:00:00.{n:09}" for n in nanoseconds]
    stamps = [pandas.Timestamp(date, tz="UTC") for date in dates]
    finer = np.array([1000 * n for n in nanoseconds], "M8[ps]")
    for column in (dates, texts, stamps, pandas.Series(stamps), finer):
        assert timestamp_column(column)[0].tolist() == nanoseconds


@pytest.mark.parametrize(
    "numbers",
    [
        [5, -(2**63), 2**63 - 1],
        [5, 2**53 + 1, 7],
        np.array([2**63 - 1], np.uint64),
        np.array([5, 6], np.int8),
    ],
)
def test_whole_numbers_stay_what_they_are(numbers):
    times, has_dates = timestamp_column(numbers)
    assert times.tolist() == list(numbers)
    assert not has_dates
    # Among floats, NumPy would make a float of each.
    assert timestamp_column([2**53 + 1, 1.0])[0].tolist() == [2**53 + 1, 1]


@pytest.mark.parametrize(
    ("timestamps", "message"),
    [
        ([1, 2**63 + 5], r"of 64 bits.* Received 1 .*row 1: 92233720368547758"),
        (np.array([2**63 + 5, 1], np.uint64), r"Received 1 .*in row 0: 9223"),
        ([1.0, 1e19], r"in row 1: 1e\+19"),
        (np.array([1e19, 2e19]), "Received 2 .* in row 0"),
        ([1.0, float("inf")], "row 1: inf"),
        ([1.0, 1.5], "row 1: 1.5"),
        (np.array([1, np.nan]), "that are missing, the first in row 1"),
        ([1, None], "missing values.* row 1"),
        (np.ma.array([1, 2], mask=[0, 1]), "missing values.* row 1"),
        (np.array(["2020-01-01", "NaT"], "M8[s]"), "missing, .* row 1"),
        (np.array(["2020", "300000"], "M8[D]"), r"1678 to 2261.* 300000-01-01"),
        (np.array(["-290000000000"], "M8[Y]"), "1678 to 2261"),
        ([datetime.datetime(9999, 12, 31)], "1678 to 2261.*9999, 12, 31"),
        ([datetime.date(1066, 10, 14)], "1678 to 2261"),
        (["2020-01-01", "9999-12-31"], "1678 to 2261.* row 1: 9999-12-31"),
        (["2020-01-01", "2020-13-01"], "row 1: '2020-13-01'"),
        (["2020-01-01", "2020-01-01T25:00"], "row 1"),
        (["today"], "strings such as '2024-05-01T12:30:00'"),
        (["NaT"], "row 0: 'NaT'"),
        (["881250949"], "row 0: '881250949'"),
        (["2020-01-01", 5], "row 0: '2020-01-01'"),
        ([True, False], "Received 2 .* row 0: True"),
        (np.array([True]), "whole numbers"),
        (np.array([1], "m8[s]"), "whole numbers"),
        (np.array([1], "M8[as]"), "that are not"),
        (5, "one-dimensional"),
        ([[1, 2]], "whole numbers"),
        (
            ["2020-01-01T10:00", "2020-01-01T10:00Z"],
            "a time zone, or none.* row 0 and .*Z' in row 1",
        ),
        (
            [
                datetime.datetime(2020, 1, 1, tzinfo=PLUS_2),
                datetime.datetime(2020, 1, 1),
            ],
            "a time zone, or none",
        ),
    ],
)
def test_what_would_lose_its_order_is_refused(timestamps, message):
    with pytest.raises(ValueError, match=message):
        timestamp_column(timestamps)


def test_dates_and_numbers_are_not_compared_with_each_other():
    options = {"split": "by_time", "test_fraction": 0}
    dates = np.array(["2020-01-01"], "M8[D]")
    message = "dates in the test part, and numbers in the interactions"
    with pytest.raises(ValueError, match=message):
        RetrievalDataset(
            [1], [1], None, [5], test=([1], [2], None, dates), **options
        )


@pytest.mark.parametrize("as_column", [np.array, list])
def test_strings_that_are_no_text_are_named(as_column):
    times = as_column(["2024-05-01", "\ud800"])  # Half a character.
    with pytest.raises(ValueError, match=r"in row 1: .*ud800"):
        timestamp_column(times)


def test_a_frame_with_dates_takes_a_test_part_with_dates():
    pandas = pytest.importorskip("pandas")
    times = pandas.to_datetime(["2020-01-02", "2020-01-01"], utc=True)
    frame = pandas.DataFrame({"u": [1, 2], "c": [3, 4], "t": times})
    data = RetrievalDataset.from_dataframe(
        frame,
        user_column="u",
        candidate_column="c",
        timestamp_column="t",
        split="by_time",
        test=([1], [4], None, ["2020-01-03T00:00:00Z"]),
        validation_fraction=0,
    )
    assert data.leakage.num_before_train_end == 0
    again = RetrievalDataset.from_config(data.get_config())
    assert again.get_config() == data.get_config()
