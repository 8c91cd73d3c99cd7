"""A list of ids from a file: one a line, or a column of a table."""

import pathlib

import numpy as np

from keras_dp_retrieval.data.readers.column_names import (
    AUTO,
    check_names,
    find_column,
)
from keras_dp_retrieval.data.readers.file_kinds import is_parquet


def read_user_ids(path, user_column: str = AUTO) -> np.ndarray:
    """Returns the ids of a file in their order, `(n,)` int64 or string.

    Args:
        path: Path of a file with one id a line, of a CSV file whose first
            line names a column of users, or of a Parquet file or folder with
            one.
        user_column: str. With `"auto"`, the one that is called `user_id`,
            `userId`, `customer` or the like.

    Raises:
        ValueError: If there is no such column, or the file is damaged.
    """
    path = pathlib.Path(path)
    read = _from_parquet if is_parquet(path) else _from_text
    ids = read(path, user_column)
    if not len(ids):
        raise ValueError(
            f"The file {str(path)!r} must have at least one id. Received: none."
        )
    return ids


def _from_parquet(path, user_column) -> np.ndarray:
    import pyarrow
    from pyarrow import dataset as arrow

    what = f"The file {str(path)!r}"
    try:
        source = arrow.dataset(path, format="parquet", partitioning="hive")
        name = _user_column(user_column, source.schema.names, what)
        column = source.to_table(columns=[name])[name]
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{what} must be a Parquet file, or a folder of them. It is "
            f"damaged or something else. Arrow says: "
            f"{str(error).splitlines()[0]:.300}"
        ) from error
    return _as_ids(column)


def _from_text(path, user_column) -> np.ndarray:
    from keras_dp_retrieval.data.readers import csv_files, csv_pieces

    given = None if user_column == AUTO else user_column
    with csv_pieces.open_text(path) as pieces:
        separator, header = csv_files.header_of(
            pieces.first_line(), {"user_ids": given}
        )
        names_a_column = find_column("user_ids", header, pieces.what)
        if given or names_a_column or len(header) > 1:
            name = _user_column(user_column, header, pieces.what)
            table = csv_files.Table({"user_ids": name}, header, separator)
            return _as_ids(table.read(pieces)["user_ids"])
    with csv_pieces.open_text(path) as pieces:
        # The first line is an id like the others.
        table = csv_files.Table({"user_ids": "id"}, ["id"], ",")
        ids = _as_ids(table.read(pieces)["user_ids"])
    if ids.dtype.kind == "U" and len(ids):
        ids[0] = ids[0].removeprefix("\ufeff")  # The mark of UTF-8.
    return ids


def _user_column(given: str, names, what: str) -> str:
    if given == AUTO:
        found = find_column("user_ids", names, what)
        if found is None:
            raise ValueError(
                f"{what} must have a column of users, or one id a line. "
                f"Received the columns: {list(names)}. Name it with "
                "`user_column=...`."
            )
        return found
    check_names([given], names, what)
    return given


def _as_ids(column) -> np.ndarray:
    from keras_dp_retrieval.data.columns import id_column

    return id_column("user_ids", column)
