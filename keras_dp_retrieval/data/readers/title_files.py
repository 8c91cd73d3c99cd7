"""Titles of candidates from a file of their own."""

import pathlib
from collections.abc import Sequence

import numpy as np

from keras_dp_retrieval.data.columns import id_column, refuse_rows
from keras_dp_retrieval.data.readers.column_names import (
    AUTO,
    check_names,
    find_column,
)
from keras_dp_retrieval.data.readers.file_kinds import is_parquet


def read_titles(
    path,
    candidate_ids: np.ndarray,
    *,
    candidate_column: str = AUTO,
    title_column: str = AUTO,
) -> tuple[dict, str]:
    """Returns the titles of candidates from a CSV or Parquet file.

    Args:
        path: Path of the file.
        candidate_ids: `(n,)` int64 or string. The distinct ids of those that
            titles are wanted of; the file may have others.
        candidate_column: str. With `"auto"`, or where the file has no such
            column, the one that is called `candidate_id`, `itemId`, `id` or
            the like.
        title_column: str. With `"auto"`, the one that is called `title`,
            `name` or the like.

    Returns:
        `(titles, note)`: a dict from raw id to title, and a text on how many
        there are. An empty title is none.

    Raises:
        ValueError: If there are no such columns, an id has two titles, or no
            candidate has one.
    """
    path = pathlib.Path(path)
    what = f"The file {str(path)!r}"
    read = _from_parquet if is_parquet(path) else _from_csv
    ids, texts, names = read(path, what, candidate_column, title_column)
    ids = _of_kind(id_column("candidate_ids", ids), candidate_ids)
    titles: dict = {}
    for one, title in zip(ids.tolist(), texts, strict=True):
        if title and titles.setdefault(one, title) != title:
            raise ValueError(
                f"{what} must have one title for each candidate. Received two "
                f"for {one!r}: {titles[one]!r:.80} and {title!r:.80}."
            )
    wanted = candidate_ids.tolist()
    found = {one: titles[one] for one in wanted if one in titles}
    if not found:
        raise ValueError(
            f"{what} must have titles of candidates in the interactions. "
            f"Received, in the columns {names}: {len(titles):,} titles for ids "
            f"such as {next(iter(titles), None)!r}, and candidates such as "
            f"{wanted[0]!r}. Name the columns with `candidate_column=...` and "
            "`title_column=...`."
        )
    return found, f"titles of {len(found):,} of {len(wanted):,} candidates"


def _of_kind(ids: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Ids as strings, where those of the interactions are strings.

    One file may have whole numbers alone, and the other not.
    """
    is_text = like.dtype.kind == "U" and ids.dtype.kind != "U"
    return ids.astype(str) if is_text else ids


def _from_csv(path, what, candidate_column, title_column):
    from keras_dp_retrieval.data.readers import csv_files, csv_pieces

    with csv_pieces.open_text(path) as pieces:
        separator, header = csv_files.header_of(
            pieces.first_line(), {"titles": title_column}
        )
        names = _names(header, what, candidate_column, title_column)
        wanted = dict(zip(("candidate_ids", "titles"), names, strict=True))
        read = csv_files.Table(wanted, header, separator).read(pieces)
    return read["candidate_ids"], read["titles"].to_pylist(), names


def _from_parquet(path, what, candidate_column, title_column):
    import pyarrow
    from pyarrow import dataset as arrow

    try:
        source = arrow.dataset(path, format="parquet", partitioning="hive")
        names = _names(
            source.schema.names, what, candidate_column, title_column
        )
        table = source.to_table(columns=names)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{what} must be a CSV or Parquet file. It is damaged or something "
            f"else. Arrow says: {str(error).splitlines()[0]:.300}"
        ) from error
    ids, texts = (table[name] for name in names)
    refuse_rows(names[0], ids.is_null().to_numpy())
    try:
        texts = texts.cast(pyarrow.string())
    except pyarrow.ArrowException:
        raise ValueError(
            f"The column {names[1]!r} of {str(path)!r} must hold texts. "
            f"Received: {texts.type}."
        ) from None
    return ids, texts.to_pylist(), names


def _names(
    there: Sequence[str], what: str, candidate_column: str, title_column: str
) -> list[str]:
    """Returns the names of the column of ids and of that of titles."""
    ids, titles = candidate_column, title_column
    if titles == AUTO:
        titles = find_column("titles", there, what) or "title"
    if ids not in there:
        left = [name for name in there if name != titles]
        of_usual_name = [name for name in left if name.lower() == "id"]
        ids = find_column("candidate_ids", left, what)
        ids = ids or next(iter(of_usual_name), "candidate_id")
    missing = [name for name in (ids, titles) if name not in there]
    if missing:
        raise ValueError(
            f"{what} must have a column of ids and one of titles. Missing: "
            f"{missing}. There are: {list(there)}. Name them with "
            "`candidate_column=...` and `title_column=...`."
        )
    check_names([ids, titles], there, what)
    return [ids, titles]
