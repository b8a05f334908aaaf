"""Which reader reads what: the one place where a format is added."""

import gzip
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from peftcore import DataError, nearest
from peftcore_train.data.annotated import h5ad
from peftcore_train.data.lines import TEXT, Found, readable
from peftcore_train.data.media import is_media, media
from peftcore_train.data.rows import Row
from peftcore_train.data.tables import is_saved, parquet, saved


def _text(path: Path, *, suffix: str) -> Found:
    raw = path.read_bytes()
    if path.suffix == ".gz":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            yield DataError(f"{path.name}: not readable as gzip: {error}.")
            return
    text, problems = readable(raw, path.name)
    yield from problems
    for found in TEXT[suffix](text, path.name):
        yield replace(found, folder=str(path.parent)) if isinstance(found, Row) else found


#: Readers of files by suffix.
READERS: dict[str, Callable[[Path], Found]] = {
    **{suffix: partial(_text, suffix=suffix) for suffix in TEXT},
    **{f"{suffix}.gz": partial(_text, suffix=suffix) for suffix in TEXT},
    ".parquet": parquet,
    ".h5ad": h5ad,
}
#: Readers of folders, each with what tells its folders from others.
_FOLDERS: tuple[tuple[Callable[[Path], bool], Callable[[Path], Found]], ...] = (
    (is_saved, saved),
    (is_media, media),
)


def reader_of(path: Path) -> Callable[[Path], Found] | None:
    """Return the reader of a file or folder, or None where nothing reads it."""
    if path.is_dir():
        return next((read for knows, read in _FOLDERS if knows(path)), None)
    name = path.name.lower()
    return next((READERS[suffix] for suffix in READERS if name.endswith(suffix)), None)


def read_all(path: Path) -> tuple[list[Row], list[DataError]]:
    """Return the rows of a file or folder, and everything in it that is no row.

    Raises:
        DataError: it is missing, or of a format that nothing reads.
    """
    reader = reader_of(path) if path.exists() else None
    if not path.exists():
        near = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file.{nearest(path.name, near)}")
    if reader is None and path.is_dir():
        raise DataError(f"{path}: a folder without images, sound or a saved dataset.")
    if reader is None:
        raise DataError(f"{path}: the suffix is none of {', '.join(READERS)}.")
    rows, problems = _parted(reader(path))
    if not rows and not problems:
        problems.append(DataError(f"{path.name} is empty."))
    return rows, problems


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file or folder of any format that training reads.

    Raises:
        DataError: it is missing, empty, not UTF-8, or a line is not readable.
    """
    rows, problems = read_all(path)
    if problems:
        raise problems[0]
    return rows


def _parted(found: Iterable[Row | DataError]) -> tuple[list[Row], list[DataError]]:
    rows: list[Row] = []
    problems: list[DataError] = []
    for one in found:
        if isinstance(one, Row):
            rows.append(one)
        else:
            problems.append(one)
    return rows, problems
