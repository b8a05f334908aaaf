"""Formats of text: JSON lines, tables, plain lines.

Each reader yields rows, and a :class:`DataError` in the place of a line that is none, so that all
of them can be told at once.
"""

import csv
import io
import json
from collections.abc import Iterator

from peftcore import DataError
from peftcore_train.data.rows import Row

Found = Iterator[Row | DataError]


def jsonl(text: str, name: str) -> Found:
    """Read one JSON object a line."""
    # splitlines() would also break at characters that JSON strings may hold
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", str(error))
            yield DataError(f"{where}: not readable as JSON: {reason.lower()}.")
            continue
        if isinstance(values, dict):
            yield Row(values, where)
        else:
            yield DataError(f"{where}: a row is a JSON object, not {type(values).__name__}.")


def table(text: str, name: str, *, tab: bool) -> Found:
    """Read a table with a header: commas and quotes, or tabs without quotes."""
    # sequences and documents can be longer than the 131,072 characters that csv allows
    csv.field_size_limit(2**31 - 1)
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
                    yield DataError(f"{where}: the header names a column twice.")
                    return
            elif len(values) != len(header):
                yield DataError(
                    f"{where}: {len(values)} columns, but the header has {len(header)}."
                )
            else:
                yield Row(dict(zip(header, values, strict=True)), where)
    except csv.Error as error:
        yield DataError(f"{name}:{reader.line_num}: not readable: {error}.")


def plain(text: str, name: str) -> Found:
    """Read one row a line, with the column ``text``; lines of blanks are left out."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield Row({"text": line.rstrip("\r")}, f"{name}:{number}")


def decoded(raw: bytes, name: str) -> str:
    """Return the text of a file; a byte-order mark is left out.

    Raises:
        DataError: it is not UTF-8.
    """
    text, problems = readable(raw, name)
    if problems:
        raise problems[0]
    return text


def readable(raw: bytes, name: str) -> tuple[str, list[DataError]]:
    """Return the text of a file, and what is wrong with each line that is not UTF-8."""
    try:
        return raw.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        pass
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw[:1000]:
        return "", [DataError(f"{name}:1: not UTF-8, but perhaps UTF-16. Save it as UTF-8.")]
    problems, start = [], 0
    for number, line in enumerate(raw.split(b"\n"), 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = start + error.start
            problems.append(DataError(f"{name}:{number}: not UTF-8 (byte {byte} of the file)."))
        start += len(line) + 1
    return raw.decode("utf-8-sig", "replace"), problems


def rows_of_json(text: str, name: str) -> list[Row]:
    """Return the rows of a text that has one JSON object a line.

    Raises:
        DataError: there are none, or a line is not readable.
    """
    rows = []
    for found in jsonl(text, name):
        if isinstance(found, DataError):
            raise found
        rows.append(found)
    if not rows:
        raise DataError(f"{name} is empty.")
    return rows
