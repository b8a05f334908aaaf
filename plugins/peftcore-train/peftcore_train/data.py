"""Rows of a data folder, with the file and line of each. Imports no torch."""

import csv
import io
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftcore import DataError, nearest, resolve_source
from peftcore_train.schema import SPLITS, DataSection, Split

_SUFFIXES = (".jsonl", ".csv", ".tsv")
_ALIASES = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}


@dataclass(frozen=True)
class Row:
    """One row of a data file.

    Attributes:
        values: columns by name.
        where: ``train.jsonl:12``, for messages.
    """

    values: Mapping[str, Any]
    where: str

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


def read_split(data: DataSection, split: Split) -> list[Row]:
    """Return the rows of one split.

    Raises:
        DataError: the file is missing, empty, not UTF-8, or a line is not readable.
    """
    root = Path(resolve_source(data.source, "data") or data.source)
    if root.is_file():
        rows = _rows_of_split(read_rows(root), split, root)
    else:
        rows = read_rows(_file_of(root, data, split))
    limit = data.limits.get(split)
    if limit is not None and limit < len(rows):
        chosen = random.Random(data.seed).sample(range(len(rows)), limit)
        rows = [rows[i] for i in sorted(chosen)]
    return rows


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a .jsonl, .csv or .tsv file.

    Raises:
        DataError: the file is missing, empty, not UTF-8, or a line is not readable.
    """
    if path.suffix not in _SUFFIXES:
        raise DataError(f"{path}: the suffix is none of {', '.join(_SUFFIXES)}.")
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file.{nearest(path.name, near)}")
    return rows_of_text(decoded(path.read_bytes(), path.name), path.name, path.suffix)


def decoded(raw: bytes, name: str) -> str:
    """Return the text of a file; a byte-order mark is left out.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{name}:{line}: not UTF-8 (byte {error.start} of the file).") from None


def rows_of_text(text: str, name: str, suffix: str) -> list[Row]:
    """Return the rows of a text in the format that a suffix names.

    Raises:
        DataError: there are none, or a line is not readable.
    """
    rows = list(_jsonl(text, name) if suffix == ".jsonl" else _table(text, name, suffix))
    if not rows:
        raise DataError(f"{name} is empty.")
    return rows


def _jsonl(text: str, name: str) -> Iterator[Row]:
    # splitlines() would also break at characters that JSON strings may hold
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            values = json.loads(line)
        except ValueError as error:
            reason = getattr(error, "msg", str(error))
            raise DataError(f"{where}: not readable as JSON: {reason.lower()}.") from None
        if not isinstance(values, dict):
            raise DataError(f"{where}: a row is a JSON object, not {type(values).__name__}.")
        yield Row(values, where)


def _table(text: str, name: str, suffix: str) -> Iterator[Row]:
    # sequences and documents can be longer than the 131,072 characters that csv allows
    csv.field_size_limit(2**31 - 1)
    tab = suffix == ".tsv"
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter="\t" if tab else ",",
        quoting=csv.QUOTE_NONE if tab else csv.QUOTE_MINIMAL,
        strict=True,
    )
    header: list[str] | None = None
    try:
        for values in reader:
            where = f"{name}:{reader.line_num}"
            if not values:
                continue
            if header is None:
                header = values
                if len(set(header)) < len(header):
                    raise DataError(f"{where}: the header names a column twice.")
                continue
            if len(values) != len(header):
                raise DataError(
                    f"{where}: {len(values)} columns, but the header has {len(header)}."
                )
            yield Row(dict(zip(header, values, strict=True)), where)
    except csv.Error as error:
        raise DataError(f"{name}:{reader.line_num}: not readable: {error}.") from None


def _file_of(root: Path, data: DataSection, split: Split) -> Path:
    if not root.is_dir():
        beside = [p.name for p in root.parent.glob("*")] if root.parent.is_dir() else []
        raise DataError(f"data.source {data.source}: no such folder.{nearest(root.name, beside)}")
    if split in data.files:
        return root / data.files[split]
    found = [root / f"{a}{s}" for a in _ALIASES[split] for s in _SUFFIXES]
    found = [path for path in found if path.is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{data.source}: split {split} could be {names}; say which in data.files.")
    has = ", ".join(sorted(p.name for p in root.iterdir())) or "nothing"
    raise DataError(
        f"{data.source} has no {split}.jsonl, {split}.csv or {split}.tsv. It holds: {has}."
    )


def _rows_of_split(rows: Sequence[Row], split: Split, path: Path) -> list[Row]:
    known = {alias for aliases in _ALIASES.values() for alias in aliases}
    out = []
    for row in rows:
        value = row.column("split")
        if value not in known:
            hint = nearest(str(value), known) or f" Splits: {', '.join(SPLITS)}."
            raise DataError(f"{row.where}: {value!r} is not a split.{hint}")
        if value in _ALIASES[split]:
            out.append(row)
    if not out:
        raise DataError(f"{path.name} has no row of the split {split}.")
    return out
