"""Reading MovieLens: every damaged or foreign file has a clear error."""

import dataclasses
import stat
import tracemalloc
import zipfile

import numpy as np
import pytest

from keras_dp_retrieval.data.movielens_files import read_files
from keras_dp_retrieval.data.movielens_versions import VERSIONS

# Three ratings as each version writes them, and one title that needs the
# right encoding or quoting.
FILES = {
    "100k": {
        "ml-100k/u.data": "1\t7\t3\t10\n2\t8\t5\t20\n1\t8\t1\t30\n",
        "ml-100k/u.item": "7|Misérables, Les (1995)|x|\n8|Fargo (1996)|x|\n",
    },
    "1m": {
        "ml-1m/ratings.dat": "1::7::3::10\n2::8::5::20\n1::8::1::30\n",
        "ml-1m/movies.dat": "7::Misérables, Les (1995)::Drama\n8::Fargo"
        " (1996)::Crime\n",
    },
    "20m": {
        "ml-20m/ratings.csv": "userId,movieId,rating,timestamp\n"
        "1,7,3.0,10\n2,8,5.0,20\n1,8,1.0,30\n",
        "ml-20m/movies.csv": "movieId,title,genres\n"
        '7,"Misérables, Les (1995)",Drama\n8,Fargo (1996),Crime\n',
    },
}


@pytest.fixture
def three_ratings(monkeypatch):
    """Lets every version have three ratings, so that tests are small."""
    for version, known in VERSIONS.items():
        small = dataclasses.replace(known, num_ratings=3)
        monkeypatch.setitem(VERSIONS, version, small)


def contents(version, **changes):
    encoding = VERSIONS[version].encoding
    return {
        name: changes.get(name.split("/")[1].replace(".", "_"), text).encode(
            encoding
        )
        for name, text in FILES[version].items()
    }


def write_folder(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text)
    return folder


def write_zip(path, files, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def check_three_ratings(read):
    assert read.ratings.user_ids.tolist() == [1, 2, 1]
    assert read.ratings.candidate_ids.tolist() == [7, 8, 8]
    assert read.ratings.ratings.tolist() == [3, 5, 1]
    assert read.ratings.timestamps.tolist() == [10, 20, 30]
    assert read.titles == {7: "Misérables, Les (1995)", 8: "Fargo (1996)"}


@pytest.mark.parametrize("version", FILES)
def test_folders_and_archives_are_read_wherever_they_lie(
    tmp_path, three_ratings, version
):
    folder = VERSIONS[version].folder
    write_folder(tmp_path, contents(version))
    check_three_ratings(read_files(version, tmp_path / folder))
    check_three_ratings(read_files(version, tmp_path))
    other = tmp_path / "other"
    other.mkdir()
    archive = write_zip(other / f"{folder}.zip", contents(version))
    check_three_ratings(read_files(version, archive))
    check_three_ratings(read_files(version, other))
    assert [path.name for path in other.iterdir()] == [archive.name]


def test_a_missing_folder_or_file_names_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must exist.*source='synth"):
        read_files("100k", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"u\.data.*ml-100k\.zip"):
        read_files("100k", tmp_path)


def test_missing_titles_are_an_error(tmp_path, three_ratings):
    files = contents("100k")
    del files["ml-100k/u.item"]
    write_folder(tmp_path, files)
    with pytest.raises(FileNotFoundError, match=r"u\.item is missing"):
        read_files("100k", tmp_path)
    archive = write_zip(tmp_path / "a.zip", files)
    with pytest.raises(ValueError, match=r"needs the file ml-100k/u\.item"):
        read_files("100k", archive)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty file"),
        ("1\t7\t3\t10\n2\t8\t5\t20\n", r"100,000 .* Received: 2\."),
        ("1\t7\t3\t10\n2\t8\t5\n", "four columns"),
        ("1\t7\t3\n2\t8\t5\n", "four columns"),
        ("1\t7\t3\t10\n2\tx\t5\t20\n", "four columns"),
        ("1::7::3::10\n", "four columns"),
        ("<html>404</html>\n", "four columns"),
    ],
)
def test_damaged_ratings_are_refused(tmp_path, text, message):
    write_folder(tmp_path, contents("100k", u_data=text))
    with pytest.raises(ValueError, match=message):
        read_files("100k", tmp_path)


def latest_small(ratings, movies="movieId,title\n7,Fargo\n8,Heat\n"):
    files = {"ratings.csv": ratings, "movies.csv": movies}
    return {f"ml-latest-small/{k}": v.encode() for k, v in files.items()}


@pytest.mark.parametrize(
    "ratings",
    [
        "userId,movieId,rating,timestamp\n1,7,3,10\n2,8,5,20\n",
        "movieId,userId,rating,timestamp\n7,1,3,10\n8,2,5,20\n",
        "timestamp,tag,rating,movieId,userId\n10,x,3,7,1\n20,y,5,8,2\n",
        '\ufeff"userId","movieId","rating","timestamp"\r\n1,7,3,10\r\n2,8,5,20',
    ],
)
def test_columns_are_what_the_first_line_says(tmp_path, ratings):
    movies = "title,genres,movieId\nFargo,x,7\nHeat,y,8\n"
    write_folder(tmp_path, latest_small(ratings, movies))
    read = read_files("latest-small", tmp_path)
    assert read.ratings.user_ids.tolist() == [1, 2]
    assert read.ratings.candidate_ids.tolist() == [7, 8]
    assert read.ratings.ratings.tolist() == [3, 5]
    assert read.ratings.timestamps.tolist() == [10, 20]
    assert read.titles == {7: "Fargo", 8: "Heat"}


@pytest.mark.parametrize(
    ("ratings", "movies"),
    [
        ("1,7,3.0,10\n2,8,5.0,20\n", "movieId,title\n7,Fargo\n"),
        ("userId,movieId,rating\n1,7,3\n", "movieId,title\n7,Fargo\n"),
        ("userId,userId,movieId,rating,timestamp\n", "movieId,title\n"),
        ("userId,movieId,rating,timestamp\n1,7,3,10\n", "7,Fargo\n8,Heat\n"),
    ],
)
def test_a_missing_first_line_loses_no_row(tmp_path, ratings, movies):
    write_folder(tmp_path, latest_small(ratings, movies))
    with pytest.raises(ValueError, match=r"first line of .* must name the col"):
        read_files("latest-small", tmp_path)


@pytest.mark.parametrize(
    "movies", ['7,"' + "x" * 200_000, "7\n", "seven,Fargo\n", "7,Fargo\n,\n"]
)
def test_damaged_titles_with_a_first_line_are_refused(tmp_path, movies):
    ratings = "userId,movieId,rating,timestamp\n1,7,3,10\n"
    movies = "movieId,title\n" + movies
    write_folder(tmp_path, latest_small(ratings, movies))
    with pytest.raises(ValueError, match="an id and a title"):
        read_files("latest-small", tmp_path)


def test_titles_in_another_encoding_are_refused(tmp_path):
    files = latest_small("userId,movieId,rating,timestamp\n1,7,3,10\n")
    files["ml-latest-small/movies.csv"] += "9,é".encode("latin-1")
    write_folder(tmp_path, files)
    with pytest.raises(ValueError, match="an id and a title"):
        read_files("latest-small", tmp_path)


def test_nan_ratings_are_refused(tmp_path, three_ratings):
    text = "1\t7\t3\t10\n2\t8\tnan\t20\n1\t8\t1\t30\n"
    write_folder(tmp_path, contents("100k", u_data=text))
    with pytest.raises(ValueError, match=r"Received 1 .* row 1: nan"):
        read_files("100k", tmp_path)


def test_damaged_titles_are_refused(tmp_path, three_ratings):
    write_folder(tmp_path, contents("100k", u_item="no title\n"))
    with pytest.raises(ValueError, match="an id and a title"):
        read_files("100k", tmp_path)


def test_a_file_of_ones_own_is_no_archive(tmp_path, three_ratings):
    path = tmp_path / "own.csv"
    path.write_text("user,item\n1,2\n")
    with pytest.raises(ValueError, match=r"own\.csv'.*`--interactions FILE`"):
        read_files("100k", path)
    # An archive by any name is one.
    path = write_zip(tmp_path / "ratings", contents("100k"))
    titles = read_files("100k", path).titles
    named = write_zip(tmp_path / "ml-100k.zip", contents("100k"))
    assert titles and titles == read_files("100k", named).titles


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.95])
def test_truncated_archives_are_refused(tmp_path, three_ratings, kept):
    path = write_zip(tmp_path / "ml-100k.zip", contents("100k"))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole) if kept < 1 else kept)])
    with pytest.raises(ValueError, match=r"ml-100k\.zip.* damaged or incompl"):
        read_files("100k", path)


def test_a_changed_byte_in_an_archive_is_noticed(tmp_path, three_ratings):
    files = contents("100k")
    path = write_zip(tmp_path / "a.zip", files, zipfile.ZIP_STORED)
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"1\t7\t3\t10")] = ord("2")
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="damaged or incomplete"):
        read_files("100k", path)


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2], ids=["LZMA", "BZIP2"]
)
def test_archives_that_unpack_without_a_bound_are_refused(
    tmp_path, three_ratings, method
):
    archive = write_zip(tmp_path / "a.zip", contents("100k"), method)
    with pytest.raises(ValueError, match=r"by method (LZMA|bzip2)\. Unpack"):
        read_files("100k", archive)


def with_header_byte(path, offsets, change):
    """Changes a byte of each header of an archive.

    Args:
        offsets: int, int. Of the byte, in a member's own header and in the
            archive's list of members.
    """
    whole = bytearray(path.read_bytes())
    for mark, offset in zip((b"PK\3\4", b"PK\1\2"), offsets, strict=True):
        start = whole.find(mark)
        while start >= 0:
            whole[start + offset] = change(whole[start + offset])
            start = whole.find(mark, start + 4)
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize(
    ("offsets", "change", "message"),
    [
        ((6, 8), lambda flags: flags | 1, "which is encrypted"),
        ((8, 10), lambda method: 99, "packed by method 99"),
        ((4, 6), lambda version: 99, "damaged or incomplete"),
    ],
    ids=["encrypted", "method", "version"],
)
def test_archives_that_cannot_be_unpacked_are_refused(
    tmp_path, three_ratings, offsets, change, message, capsys
):
    archive = write_zip(tmp_path / "a.zip", contents("100k"))
    with_header_byte(archive, offsets, change)
    with pytest.raises(ValueError, match=message):
        read_files("100k", archive)
    # And at the command line, in one line.
    from keras_dp_retrieval import cli

    assert cli.main(["train", "--data-dir", str(archive)]) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("packed", [True, False])
def test_files_that_are_much_too_large_are_not_read(
    tmp_path, three_ratings, packed
):
    files = contents("100k", u_data="1\t7\t3\t10\n" * 2**23)  # 80 MiB
    if packed:
        path = write_zip(tmp_path / "a.zip", files)
    else:
        path = write_folder(tmp_path, files)
    del files
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"at most 67,108,864 bytes"):
            read_files("100k", path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2**23


def test_an_archive_that_says_less_than_it_unpacks_to_is_refused(
    tmp_path, three_ratings
):
    files = contents("100k", u_data="1\t7\t3\t10\n" * 2**20)
    path = write_zip(tmp_path / "a.zip", files)
    whole = path.read_bytes()
    size = (9 * 2**20).to_bytes(4, "little")
    assert whole.count(size) == 2
    path.write_bytes(whole.replace(size, (1000).to_bytes(4, "little")))
    with pytest.raises(ValueError, match="damaged or incomplete"):
        read_files("100k", path)


def test_an_archive_of_another_version_is_refused(tmp_path):
    archive = write_zip(tmp_path / "a.zip", contents("100k"))
    with pytest.raises(ValueError, match=r"ml-1m/ratings\.dat.*u\.data"):
        read_files("1m", archive)


@pytest.mark.parametrize(
    "name", ["../u.data", "/etc/u.data", "a/../../b", "..\\u.data", "C:/u.data"]
)
def test_archives_that_reach_out_of_their_folder_are_refused(
    tmp_path, three_ratings, name
):
    files = {**contents("100k"), name: b"1\t7\t3\t10\n"}
    archive = write_zip(tmp_path / "a.zip", files)
    with pytest.raises(ValueError, match="a path out of its folder"):
        read_files("100k", archive)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_archives_with_links_are_refused(tmp_path, three_ratings):
    archive = write_zip(tmp_path / "a.zip", contents("100k"))
    link = zipfile.ZipInfo("ml-100k/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(link, "/etc/passwd")
    with pytest.raises(ValueError, match="a link"):
        read_files("100k", archive)


@pytest.mark.realdata
def test_a_cut_off_file_names_the_counts(data_dir, tmp_path):
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    text = (data_dir / "ml-100k" / "u.data").read_bytes()
    lines = text.splitlines(keepends=True)[:99_999]
    (folder / "u.data").write_bytes(b"".join(lines))
    (folder / "u.item").write_bytes(
        (data_dir / "ml-100k" / "u.item").read_bytes()
    )
    with pytest.raises(ValueError, match=r"100,000 ratings .* 99,999"):
        read_files("100k", tmp_path)


@pytest.mark.realdata
def test_the_archive_of_movielens_gives_what_the_folder_gives(
    data_dir, tmp_path
):
    with zipfile.ZipFile(tmp_path / "ml-100k.zip", "w") as archive:
        for path in (data_dir / "ml-100k").iterdir():
            archive.write(path, f"ml-100k/{path.name}")
    zipped = read_files("100k", tmp_path)
    folder = read_files("100k", data_dir)
    np.testing.assert_array_equal(
        zipped.ratings.timestamps, folder.ratings.timestamps
    )
    assert zipped.titles == folder.titles
