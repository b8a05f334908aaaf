"""The file that predictions go to: written as they come, gone on with after a kill.

Until it is whole it is a file of JSON lines beside its place, whose first line says what it is of.
"""

import csv
import importlib.util
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

from peftcore import CheckpointError, ConfigError, nearest
from peftcore_train.rundir import finite

Record = Mapping[str, Any]

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
#: Rows of a row group of parquet.
_GROUP = 10_000


def check_output(path: Path, resume: bool) -> None:
    """Check the place and the format of an output.

    Raises:
        ConfigError: it cannot be written there, or something is there already.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"--output {path}: there is no folder {path.parent}; make it first.")
    if path.is_dir():
        raise ConfigError(f"--output {path} is a folder; name a file in it.")
    if path.suffix not in SUFFIXES:
        hint = nearest(path.suffix, SUFFIXES)
        raise ConfigError(
            f"--output {path}: the suffix is none of {', '.join(SUFFIXES)}, which say the format."
            f"{hint}"
        )
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(
            f"--output {path}: pyarrow is not installed: pip install 'peftcore-train[parquet]'"
        )
    if resume:
        return
    if path.exists():
        raise ConfigError(f"--output {path} exists; name a new file, or take this one away.")
    if (part := _part_of(path)).exists():
        raise ConfigError(
            f"--output {path} was begun before: go on with --resume, or take {part} away."
        )


class Output:
    """An output that is being written.

    Args:
        path: its place, already checked.
        about: what it is of; another one cannot be gone on with.

    Attributes:
        done: records written so far.

    Raises:
        ConfigError: what was begun is of something else.
        CheckpointError: the disk refuses.
    """

    def __init__(self, path: Path, about: Record):
        self.path = path
        self.part = _part_of(path)
        self.done = 0
        head = json.dumps(about).encode() + b"\n"
        try:
            lines = self._whole_lines()
            if lines and lines[0] != head:
                raise ConfigError(
                    f"--output {path} was begun for other rows, another adapter or other settings."
                    f" Give the same again, or take {self.part} away."
                )
            if not lines:
                self.part.write_bytes(head)
            self.done = max(0, len(lines) - 1)
        except OSError as error:
            raise self._unwritable(error) from error

    def _whole_lines(self) -> list[bytes]:
        """Return the lines of what was begun; what a kill left of the last one is cut off."""
        if not self.part.exists():
            return []
        data = self.part.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            self.part.write_bytes(whole)
        return whole.splitlines(keepends=True)

    def add(self, records: Sequence[Record]) -> None:
        """Write further records."""
        try:
            with self.part.open("ab") as file:
                file.write("".join(as_line(record) for record in records).encode())
        except OSError as error:
            raise self._unwritable(error) from error
        self.done += len(records)

    def finish(self) -> None:
        """Write the file in its format and put it in its place."""
        new = self.part.with_name(f".{self.path.name}.new")
        try:
            with new.open("w", encoding="utf-8", newline="") as file:
                match self.path.suffix:
                    case ".jsonl":
                        file.writelines(self._lines())
                    case ".parquet":
                        _write_parquet(new, self._records)
                    case suffix:
                        _write_table(file, self._records, tab=suffix == ".tsv")
            new.replace(self.path)
            self.part.unlink()
        except OSError as error:
            new.unlink(missing_ok=True)
            raise self._unwritable(error) from error

    def drop(self) -> None:
        """Leave nothing behind where nothing was predicted."""
        if not self.done:
            with suppress(OSError):
                self.part.unlink()

    def _lines(self) -> Iterator[str]:
        with self.part.open(encoding="utf-8", newline="\n") as file:
            next(file)
            yield from file

    def _records(self) -> Iterator[dict[str, Any]]:
        return map(json.loads, self._lines())

    def _unwritable(self, error: OSError) -> CheckpointError:
        kept = f" What was predicted is in {self.part}; go on with --resume." if self.done else ""
        return CheckpointError(f"{self.path} cannot be written: {error.strerror or error}.{kept}")


def as_line(record: Record) -> str:
    """Return a record as a line of JSON; what is not a number becomes null."""
    return json.dumps(finite(dict(record)), ensure_ascii=False) + "\n"


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _write_table(file: Any, records: Any, *, tab: bool) -> None:
    """Write columns; a mapping has one for each of its keys, a list is written as JSON."""
    columns = list(dict.fromkeys(chain.from_iterable(_flat(record) for record in records())))
    writer = csv.writer(file, lineterminator="\n")
    rows: Iterable[list[str]] = (
        [_cell(row.get(c)) for c in columns] for row in map(_flat, records())
    )
    if not tab:
        writer.writerow(columns)
        writer.writerows(rows)
        return
    # a tab or line break within a cell would be the next cell or row
    for row in chain([columns], rows):
        cells = (c.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r") for c in row)
        file.write("\t".join(cells) + "\n")


def _flat(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            found.update({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            found[name] = value
    return found


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _write_parquet(path: Path, records: Any) -> None:
    # an extra, which csv and JSON lines do not need
    import pyarrow
    from pyarrow import parquet

    schemas = [pyarrow.Table.from_pylist(part).schema for part in _groups(records())]
    schema = pyarrow.unify_schemas(schemas, promote_options="permissive")
    with parquet.ParquetWriter(path, schema) as writer:
        for part in _groups(records()):
            writer.write_table(pyarrow.Table.from_pylist(part, schema=schema))


def _groups(records: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while group := list(islice(records, _GROUP)):
        yield group
