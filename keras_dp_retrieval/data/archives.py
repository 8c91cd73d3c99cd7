"""Reads archives of GroupLens, which may be damaged, foreign or crafted."""

import contextlib
import pathlib
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO

from keras_dp_retrieval.data.movielens_versions import Version


def check_size(name: str, size: int, most: int) -> None:
    """Raises a ValueError if a file has more than `most` bytes."""
    if size > most:
        raise ValueError(
            f"The file {name} must have at most {most:,} bytes, several times "
            f"what GroupLens has. Received: {size:,}. Is it another file?"
        )


def open_archive(
    path: pathlib.Path, known: Version, version: str
) -> Callable[[str], contextlib.AbstractContextManager[IO[bytes]]]:
    """Checks the names in an archive and returns what opens a file of it.

    Args:
        path: Path of a `.zip` file. Nothing is unpacked to disk.
        known: `Version`, whose folder and largest file size are expected.
        version: str. Its name, for messages.

    Returns:
        A function from the name of a file to a context manager that opens it
        for reading. It raises a ValueError if there is no such file, if it is
        encrypted, packed in an unbounded way or too large, or while it is
        read, if it is damaged.

    Raises:
        ValueError: If the archive is damaged, or has links or paths out of
            its folder.
    """
    with _clear_zip_errors(path), zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if any(member.header_offset < 0 for member in members.values()):
            raise zipfile.BadZipFile("a file in it begins before it does")
    for member in members.values():
        _check_member(member, path)

    @contextlib.contextmanager
    def open_file(name: str) -> Iterator[IO[bytes]]:
        names = (name, f"{known.folder}/{name}")
        found = [members[name] for name in names if name in members]
        if not found:
            there = list(members)
            raise ValueError(
                f"MovieLens {version} needs the file {known.folder}/{name}. "
                f"Received: the archive {str(path)!r}, which holds "
                f"{', '.join(there[:5]) or 'nothing'}"
                f"{', ...' if len(there) > 5 else ''}. Is it another version?"
            )
        _check_packing(found[0], path)
        # What it unpacks to is never more than what it says it is.
        check_size(found[0].filename, found[0].file_size, known.most_bytes)
        with (
            _clear_zip_errors(path),
            zipfile.ZipFile(path) as archive,
            archive.open(found[0]) as file,
        ):
            yield file  # Its end is where the checksum is compared.

    return open_file


@contextlib.contextmanager
def _clear_zip_errors(path: pathlib.Path):
    try:
        yield
    except (
        zipfile.BadZipFile,
        EOFError,
        zlib.error,
        struct.error,
        UnicodeDecodeError,
        OverflowError,
        RuntimeError,  # Encrypted, or packed in a way that is not known.
    ) as error:
        raise ValueError(
            f"The archive {str(path)!r} is damaged or incomplete: {error}. "
            "Download it again."
        ) from error


def _check_packing(member: zipfile.ZipInfo, path: pathlib.Path) -> None:
    # Python unpacks the other methods without a bound on the memory.
    known = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    is_encrypted = member.flag_bits & 1
    if is_encrypted or member.compress_type not in known:
        names = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "LZMA"}
        method = names.get(member.compress_type, f"{member.compress_type}")
        what = "encrypted" if is_encrypted else f"packed by method {method}"
        raise ValueError(
            f"The archive {str(path)!r} must be one of GroupLens, packed with "
            f"deflate and not encrypted. Received: {member.filename!r}, which "
            f"is {what}. Unpack it, and name the folder instead."
        )


def _check_member(member: zipfile.ZipInfo, path: pathlib.Path) -> None:
    """Refuses entries that would land outside the folder of an archive.

    We never unpack to disk. But an archive that holds such a name is not from
    GroupLens, and should not be passed on as if it were.
    """
    # `orig_filename`: zipfile has already made the other one harmless.
    name = member.orig_filename.replace("\\", "/")
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    has_drive = bool(pathlib.PureWindowsPath(name).drive)
    if name.startswith("/") or has_drive or ".." in name.split("/") or is_link:
        what = "a link" if is_link else "a path out of its folder"
        raise ValueError(
            f"The archive {str(path)!r} must be one of GroupLens. Received: "
            f"an archive with {what}, {member.orig_filename!r}. Nothing was "
            "read from it."
        )
