"""One row of data, and where it stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftcore import DataError, nearest


@dataclass(frozen=True)
class Row:
    """One row of a data file.

    Attributes:
        values: columns by name.
        where: ``train.jsonl:12``, for messages.
        folder: folder of the file, from which paths in its columns count; the working one if empty.
    """

    values: Mapping[str, Any]
    where: str
    folder: str = ""

    def column(self, name: str) -> Any:
        """Return the value of a column.

        Raises:
            DataError: the row has no such column; the sentence names the nearest one.
        """
        if name not in self.values:
            has = ", ".join(str(key) for key in self.values) or "none"
            raise DataError(
                f"{self.where}: no column {name!r}.{nearest(name, self.values)} Its columns: {has}."
            )
        return self.values[name]

    def text(self, name: str) -> str:
        """Return the value of a column that holds a text.

        Raises:
            DataError: it holds something else, or nothing but blanks.
        """
        value = self.column(name)
        if not isinstance(value, str):
            raise DataError(f"{self.where}: column {name!r} holds {value!r}, which is no text.")
        if not value.strip():
            raise DataError(f"{self.where}: column {name!r} is empty.")
        return value

    def path(self, name: str) -> Path:
        """Return the file that a column names; a path counts from the folder of the row's file.

        Raises:
            DataError: the column names no file.
        """
        path = Path(self.folder, Path(self.text(name)).expanduser())
        if not path.is_file():
            near = (p.name for p in path.parent.glob("*")) if path.parent.is_dir() else ()
            what = "a folder." if path.is_dir() else f"no such file.{nearest(path.name, near)}"
            raise DataError(f"{self.where}: column {name!r}: {path}: {what}")
        return path


@dataclass(frozen=True)
class Columns:
    """What the columns of a task's rows are.

    Attributes:
        inputs: columns that a row to predict has; rows are the same where these are.
        answers: columns that only a row with its answer has.
        label: the answer that is one of few labels, which a split keeps in proportion.
        files: whether the inputs name files or members of zip files, which are the same where their
            bytes are.
        optional: columns that may be empty, since nothing is something there.
    """

    inputs: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    label: str | None = None
    files: bool = False
    optional: tuple[str, ...] = ()


def report(found: Sequence[DataError], problems: list[DataError] | None) -> None:
    """Hand on what is wrong with rows.

    Args:
        found: what was found.
        problems: where it is put, so that all of it is told; else the first is raised.

    Raises:
        DataError: something was found, and nobody collects it.
    """
    if problems is not None:
        problems += found
    elif found:
        raise found[0]
