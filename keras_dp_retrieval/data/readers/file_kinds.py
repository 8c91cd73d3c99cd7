"""Which kind of file it is, by what is in it."""

import pathlib


def is_parquet(path) -> bool:
    """Whether a path is a Parquet file, or a folder, which holds some."""
    path = pathlib.Path(path)
    if path.is_dir():
        return True
    with open(path, "rb") as file:
        return file.read(4) == b"PAR1"
