"""Folders of files that are a row each, such as images: a folder for each label."""

from pathlib import Path

from peftcore import DataError, installed
from peftcore_train.data.lines import Found
from peftcore_train.data.rows import Row
from peftcore_train.progress import going_over


def is_of_files(folder: Path) -> bool:
    """Tell whether a folder, or a folder in it, holds files that are a row each."""
    return any(_column(path) for path in (*folder.glob("*"), *folder.glob("*/*")))


def of_files(folder: Path) -> Found:
    """Read a folder of files; files in a folder of their own have its name as ``label``.

    What begins with a dot is left out; any other file that is no row is a problem.
    """
    for path in going_over(sorted(folder.rglob("*")), f"listing {folder.name}", unit="files"):
        parts = path.relative_to(folder).parts
        if path.is_dir() or any(part.startswith(".") for part in parts):
            continue
        where = "/".join((folder.name, *parts))
        if not (column := _column(path)):
            what = f"ends in {path.suffix}" if path.suffix else "has no suffix"
            yield DataError(f"{where}: it {what}, and no file of such a format is a row.")
        elif len(parts) > 2:
            yield DataError(f"{where}: lies too deep; a file stands in the folder of its label.")
        else:
            label = {"label": parts[0]} if len(parts) == 2 else {}
            yield Row({column: "/".join(parts), **label}, where, str(folder))


def _column(path: Path) -> str:
    """Return the column of a file that is a row, or nothing."""
    spec = installed().formats.get(path.suffix.lower())
    return "" if spec is None or path.name.startswith(".") else spec.column
