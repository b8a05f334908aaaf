"""Which reader reads what; plugins bring further formats (``peftcore_register_formats``)."""

import gzip
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from peftcore import DataError, FormatSpec, UnknownName, installed, nearest
from peftcore_train.data.folders import is_of_files, of_files
from peftcore_train.data.lines import Found, jsonl, plain, readable, table
from peftcore_train.data.rows import Row
from peftcore_train.data.tables import is_saved, saved


def of_text(path: Path, read: Callable[[str, str], Found]) -> Found:
    """Read a file of text, gzip or not.

    Args:
        path: the file.
        read: yields the rows of a text; it is given the name of the file for messages too.
    """
    raw = path.read_bytes()
    if path.suffix == ".gz":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            yield DataError(f"{path.name}: not readable as gzip: {error}.")
            return
    text, problems = readable(raw, path.name)
    yield from problems
    for found in read(text, path.name):
        yield replace(found, folder=str(path.parent)) if isinstance(found, Row) else found


#: The readers of this distribution's own formats of text.
of_json = partial(of_text, read=jsonl)
of_commas = partial(of_text, read=partial(table, tab=False))
of_tabs = partial(of_text, read=partial(table, tab=True))
of_lines = partial(of_text, read=plain)

#: Readers of folders, each with what tells its folders from others.
_FOLDERS: tuple[tuple[Callable[[Path], bool], Callable[[Path], Found]], ...] = (
    (is_saved, saved),
    (is_of_files, of_files),
)


def endings() -> list[str]:
    """Return how files of rows may end, compressed ones of text apart."""
    return [ending for ending, spec in installed().formats.items() if spec.reader]


def reader_of(path: Path) -> Callable[[Path], Found] | None:
    """Return the reader of a file or folder, or None where nothing reads it."""
    if path.is_dir():
        return next((read for knows, read in _FOLDERS if knows(path)), None)
    if (spec := _format(path)) is None:
        return None
    reader: Callable[[Path], Found] = installed().resolve("formats", spec.ending, "reader")
    return reader


def is_read(path: Path) -> bool:
    """Tell whether a file is one of rows; its reader is not imported."""
    return _format(path) is not None


def _format(path: Path) -> FormatSpec | None:
    name = path.name.lower().removesuffix(".gz")
    fitting = [ending for ending in endings() if name.endswith(ending)]
    return installed().formats[max(fitting, key=len)] if fitting else None


def read_all(path: Path) -> tuple[list[Row], list[DataError]]:
    """Return the rows of a file or folder, and everything in it that is no row.

    Raises:
        DataError: it is missing, or of a format that nothing reads.
    """
    reader = reader_of(path) if path.exists() else None
    if not path.exists():
        near = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file.{nearest(path.name, near)}")
    if reader is None:
        raise DataError(f"{path}: {_unread(path)}")
    rows, problems = _parted(reader(path))
    if not rows and not problems:
        problems.append(DataError(f"{path.name} is empty."))
    return rows, problems


def _unread(path: Path) -> str:
    """Say that nothing reads a file or folder, and what would, if that is known."""
    if path.is_dir():
        within = (p for p in path.rglob("*") if p.is_file() and p.suffix)
        first = next(within, None)
        what = "a folder that datasets did not save, and without files that are rows"
        return f"{what}." if first is None else f"{what}: {_unknown(first.suffix.lower())}"
    if not path.suffix:
        return f"its name ends in none of {', '.join(endings())}."
    return _unknown(path.suffix.lower())


def _unknown(ending: str) -> str:
    try:
        spec = installed().find("formats", ending)
    except UnknownName as error:
        return str(error)
    what = "is a row by itself; name its folder" if spec.column else "holds rows; name the file"
    return f"a file that ends in {ending} {what}."


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
