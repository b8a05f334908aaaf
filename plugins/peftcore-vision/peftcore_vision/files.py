"""Where an image lies: a file, or a member of a zip file, ``train.zip@folder/1.jpg``."""

import zipfile
from functools import lru_cache
from pathlib import Path, PurePosixPath

from peftcore import DataError, nearest
from peftcore_train.data import Row

_IN = ".zip@"


def located(row: Row, column: str) -> str:
    """Return where the image of a row lies; paths count from the folder of the row's file.

    Nothing is ever unpacked: members are read out of their zip file.

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
    """Return the bytes of an image.

    Args:
        place: what :func:`located` returned.
        where: the row, for messages.

    Raises:
        DataError: they cannot be read.
    """
    name, inside, member = place.partition(_IN)
    try:
        if not inside:
            return Path(place).read_bytes()
        return _opened(Path(f"{name}.zip"), where).read(member)
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{where}: {place} cannot be read: {error}.") from error


def _opened(file: Path, where: str) -> zipfile.ZipFile:
    try:
        found = file.stat()
        return _zip(file, found.st_size, found.st_mtime_ns)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{where}: {file} is no zip file that can be read: {error}.") from error


@lru_cache(maxsize=16)
def _zip(file: Path, size: int, changed: int) -> zipfile.ZipFile:
    """Return an open zip file, whose list of members is read once for all images."""
    return zipfile.ZipFile(file)
