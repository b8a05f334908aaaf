"""Where a file of a row lies: by itself, or as a member of a zip file, ``train.zip@cat/1.jpg``.

Nothing is ever unpacked: members are read out of their zip file.
"""

import hashlib
import os
import zipfile
from functools import lru_cache
from pathlib import Path, PurePosixPath

from peftcore import DataError, nearest
from peftcore_train.data.rows import Row

_IN = ".zip@"


def located(row: Row, column: str) -> str:
    """Return where the file of a row lies; paths count from the folder of the row's own file.

    Raises:
        DataError: there is no such file, no such member, or one that points out of its zip file.
    """
    value = row.column(column)
    if not (isinstance(value, str) and _IN in value):
        return str(row.path(column))
    name, _, member = value.partition(_IN)
    file = Path(row.folder, f"{name}.zip").expanduser()
    here = f"{row.where}: column {column!r}: {file}"
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or "\\" in member:
        raise DataError(f"{here}: the member {member!r} points out of the zip file.")
    if not file.is_file():
        near = (p.name for p in file.parent.glob("*.zip")) if file.parent.is_dir() else ()
        raise DataError(f"{here}: no such file.{nearest(file.name, near)}")
    members = _opened(file, here).NameToInfo
    if member not in members:
        raise DataError(f"{here} holds no member {member!r}.{nearest(member, members)}")
    return f"{file}@{member}"


def content(place: str, where: str) -> bytes:
    """Return the bytes of a file.

    Args:
        place: what :func:`located` returned.
        where: the row, for messages.

    Raises:
        DataError: they cannot be read.
    """
    file, member = _parted(place)
    try:
        return _opened(file, where).read(member) if member else file.read_bytes()
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{where}: {place} cannot be read: {error}.") from error


def digest(place: str, where: str) -> str:
    """Return a digest of the bytes of a file, which is read once for all that asks of it.

    Args:
        place: what :func:`located` returned.
        where: the row, for messages.

    Raises:
        DataError: they cannot be read.
    """
    try:
        found = _parted(place)[0].stat()
        return _digest(place, found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise DataError(f"{where}: {place} cannot be read: {error}.") from error


def _parted(place: str) -> tuple[Path, str]:
    """Return the file that is on the disk, and the member of it."""
    name, inside, member = place.partition(_IN)
    return (Path(f"{name}.zip"), member) if inside else (Path(place), "")


@lru_cache(maxsize=1_000_000)
def _digest(place: str, size: int, changed: int) -> str:
    file, member = _parted(place)
    if member:
        return hashlib.sha256(content(place, place)).hexdigest()
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _opened(file: Path, where: str) -> zipfile.ZipFile:
    try:
        found = file.stat()
        # a process that was forked must not read through the handle of its parent
        return _zip(file, found.st_size, found.st_mtime_ns, os.getpid())
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{where}: {file} is no zip file that can be read: {error}.") from error


@lru_cache(maxsize=16)
def _zip(file: Path, size: int, changed: int, process: int) -> zipfile.ZipFile:
    """Return an open zip file, whose list of members is read once for all files in it."""
    return zipfile.ZipFile(file)
