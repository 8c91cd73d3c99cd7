"""Files of any content: read as Python reads them, or refused in words."""

import collections
import contextlib
import csv
import gzip
import io
import re
import zipfile

import pyarrow as pa
import pytest
from hypothesis import strategies as st
from pyarrow import parquet

import keras_dp_retrieval as kdr
from keras_dp_retrieval.data.readers import csv_pieces
from tests.fuzzing import amounts, columns, damages, ends_well, fuzz, scalars

WHOLE = {"test_fraction": 0, "validation_fraction": 0}
NAMES = ["user_id", "candidate_id", "rating", "timestamp"]


def rows_of(data):
    raw = data._raw_data.interactions
    lists = [column for column in raw.as_lists().values() if column]
    return list(zip(*lists, strict=True))


@contextlib.contextmanager
def pieces_of(size):
    before = csv_pieces.PIECE
    csv_pieces.PIECE = size
    try:
        yield
    finally:
        csv_pieces.PIECE = before


CELLS = st.one_of(
    st.integers(-3, 12).map(str),
    st.sampled_from(
        [
            *("ann", "bob", "", " ", "7", "007", "+5", "-0", "1_0", "0x1F"),
            *("é", "e\u0301", "\u00e9", "\u202e", "😀", "a\0", "\0b", "\ufeff"),
            *("a,b", "a;b", 'a"b', '"', "a\nb", "a\r\nb", "a\tb", "a\rb"),
            *("nan", "inf", "-inf", "1e5", "1e400", "3.5", "None", "NA"),
            *("2024-05-01", "2024-05-01T10:00:00Z", "2024-13-01", "May"),
            *(str(2**63), str(2**63 - 1), str(-(2**63)), "9" * 40, "x" * 257),
        ]
    ),
)


def is_whole(text):
    return bool(re.fullmatch(r"-?\d+", text, re.ASCII)) and (
        str(int(text)) == text and -(2**63) <= int(text) < 2**63
    )


def expected_ids(texts):
    """Ids as the documentation says: numbers if all are written as such."""
    return list(map(int, texts)) if all(map(is_whole, texts)) else texts


@amounts(220, 4000)
def test_csv_files_are_read_as_python_reads_them(examples, tmp_path):
    path = tmp_path / "a.csv"
    kinds = {
        "delimiter": st.sampled_from(",;\t"),
        "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
        "lineterminator": st.sampled_from(["\n", "\r\n"]),
    }
    rows = st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=8)

    @fuzz(
        examples,
        kind=st.fixed_dictionaries(kinds),
        rows=rows,
        odd=st.one_of(st.none(), st.lists(CELLS, max_size=4)),
        bom=st.booleans(),
        packed=st.booleans(),
        cut=st.booleans(),
        piece=st.sampled_from([1, 5, 17, 2**25]),
    )
    def case(kind, rows, odd, bom, packed, cut, piece):
        file = io.StringIO(newline="")
        writer = csv.writer(file, **kind)
        writer.writerows([NAMES[:2], *rows, *([] if odd is None else [odd])])
        text = file.getvalue()
        if cut:
            text = text.removesuffix(kind["lineterminator"])
        content = ("\ufeff" * bom + text).encode()
        path.write_bytes(gzip.compress(content) if packed else content)
        with pieces_of(piece):
            data, error = ends_well(
                kdr.RetrievalDataset.from_csv, path, **WHOLE
            )
        lines = io.StringIO(text, newline="")
        reader = csv.reader(lines, delimiter=kind["delimiter"], strict=True)
        _, *read = (row for row in reader if row)
        sizes = {len(row) for row in read}
        users, candidates = (
            ([row[place] for row in read] if sizes == {2} else [])
            for place in (0, 1)
        )
        candidate_ids = expected_ids(candidates)
        good = (
            sizes == {2}
            and all(0 < len(one) <= 256 for one in users + candidates)
            and not any(one.endswith("\0") for one in users + candidates)
            and -1 not in candidate_ids
        )
        if good:
            assert data is not None
            users = expected_ids(users)
            assert rows_of(data) == list(zip(users, candidate_ids, strict=True))
        else:
            assert data is None
            assert str(path) in str(error)


@amounts(120, 2000)
def test_any_cells_become_the_right_numbers_or_an_error(examples, tmp_path):
    path = tmp_path / "a.csv"
    cells = st.fixed_dictionaries(
        {
            "rating": st.lists(CELLS, min_size=3, max_size=3),
            "timestamp": st.lists(CELLS, min_size=3, max_size=3),
        }
    )

    @fuzz(
        examples,
        cells=cells,
        rating=st.booleans(),
        piece=st.sampled_from([3, 2**25]),
    )
    def case(cells, rating, piece):
        name = "rating" if rating else "timestamp"
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows(
                [
                    [*NAMES[:2], name],
                    *([i, i, cell] for i, cell in enumerate(cells[name])),
                ]
            )
        with pieces_of(piece):
            data, error = ends_well(
                kdr.RetrievalDataset.from_csv,
                path,
                **{f"{name}_column": name},
                rating_range=(-1e6, 1e6),
                **WHOLE,
            )
        if data is None:
            assert str(path) in str(error)
            assert re.search(r"\b(row|[Ll]ine) \d", str(error))
        elif rating:
            read = [row[2] for row in rows_of(data)]
            assert read == [float(cell) for cell in cells[name]]
        elif all(map(is_whole, cells[name])):
            assert [row[2] for row in rows_of(data)] == list(
                map(int, cells[name])
            )


TABLE = {
    "user_id": [f"u{i % 5}" for i in range(40)],
    "candidate_id": [i % 9 for i in range(40)],
    "timestamp": [i * 1000 for i in range(40)],
    "event": ["buy", "view"] * 20,
}


@pytest.mark.parametrize("packed", [False, True])
@amounts(40, 600)
def test_damaged_csv_files(examples, packed, tmp_path):
    path = tmp_path / "a.csv"
    lines = [",".join(TABLE), *map(",".join, rows_as_text())]
    content = ("\n".join(lines) + "\n").encode()
    whole = gzip.compress(content) if packed else content

    @fuzz(examples, damaged=damages(whole), piece=st.sampled_from([50, 2**25]))
    def case(damaged, piece):
        path.write_bytes(damaged)
        with pieces_of(piece):
            data, error = ends_well(
                kdr.RetrievalDataset.from_csv,
                path,
                timestamp_column="timestamp",
                **WHOLE,
            )
        assert data is not None or str(path) in str(error)
        # A digit that became another is another number, unless a checksum
        # tells: gzip's does.
        if data is not None and packed:
            expected = list(zip(*list(TABLE.values())[:3], strict=True))
            assert rows_of(data) == expected


def rows_as_text():
    return [tuple(map(str, row)) for row in zip(*TABLE.values(), strict=True)]


@amounts(60, 900)
def test_damaged_parquet_files_of_many_kinds(examples, tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table(TABLE)
    stamps = table["timestamp"].cast(pa.timestamp("ms"))
    kinds = {}
    for compression in ("none", "snappy", "gzip"):
        dates = table.set_column(2, "timestamp", stamps)
        parquet.write_table(
            dates, path, compression=compression, row_group_size=13
        )
        kinds[compression] = path.read_bytes()

    @fuzz(
        examples,
        damaged=st.one_of(*(damages(whole) for whole in kinds.values())),
        filtered=st.booleans(),
    )
    def case(damaged, filtered):
        path.write_bytes(damaged)
        data, error = ends_well(
            kdr.RetrievalDataset.from_parquet,
            path,
            timestamp_column="timestamp",
            filters={"event": "buy"} if filtered else None,
            **WHOLE,
        )
        assert data is not None or str(path) in str(error)
        assert data is None or filtered or len(rows_of(data)) == 40


@amounts(60, 900)
def test_frames_of_any_columns(examples):
    """Whatever stands in them: every row that is kept, once, or an error."""

    @fuzz(
        examples,
        frame=st.fixed_dictionaries(
            {"user_id": columns(), "candidate_id": columns()},
            optional={"weight": columns(), "t": columns()},
        ),
        filters=st.one_of(
            st.none(),
            scalars(),
            st.dictionaries(st.sampled_from(["user_id", "t"]), scalars()),
        ),
        repeated=st.sampled_from(["keep", "first", "last", "sum", 5, None]),
        named=st.booleans(),
    )
    def case(frame, filters, repeated, named):
        data, _ = ends_well(
            kdr.RetrievalDataset.from_dataframe,
            frame,
            weight_column="auto" if named else None,
            timestamp_column="t" if named and "t" in frame else None,
            filters=filters,
            repeated=repeated,
            **WHOLE,
        )
        if data is None:
            return
        rows = rows_of(data)
        pairs = collections.Counter(row[:2] for row in rows)
        if repeated != "keep":
            assert max(pairs.values()) == 1
        elif not filters:
            assert len(rows) == len(list(frame["user_id"]))


@amounts(40, 500)
def test_damaged_archives_of_movielens(examples, tmp_path):
    path = tmp_path / "ml-latest-small.zip"
    lines = "".join(f"{i % 5},{i % 7},{i % 5 + 1}.0,{i}\n" for i in range(60))
    ratings = "userId,movieId,rating,timestamp\n" + lines
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml-latest-small/ratings.csv", ratings)
        archive.writestr(
            "ml-latest-small/movies.csv", "movieId,title\n1,Heat\n"
        )
    whole = path.read_bytes()

    def read():
        data = kdr.MovieLensRetrievalDataset(
            "latest-small", source="files", data_dir=path, split="by_time"
        )
        return data._loaded

    # Its directory is said to be one byte further on: what it lists would
    # then begin before the file does.
    path.write_bytes(whole[:-6] + bytes([whole[-6] + 1]) + whole[-5:])
    with pytest.raises(ValueError, match="is damaged or incomplete"):
        read()

    @fuzz(examples, damaged=damages(whole))
    def case(damaged):
        path.write_bytes(damaged)
        loaded, _ = ends_well(read)
        if loaded is not None:  # The checksums are right.
            assert loaded.interactions.timestamps.tolist() == list(range(60))
