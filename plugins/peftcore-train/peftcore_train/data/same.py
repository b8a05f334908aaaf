"""When two rows are the same: exactly, or with case and blanks aside."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from peftcore import DataError
from peftcore_train.data.rows import Columns, Row

Key = tuple[str, ...]


def exact(row: Row, columns: Columns) -> Key:
    """Return what is equal where the inputs of two rows are: the text, or the bytes of a file."""
    return tuple(_exact(row, name, columns) for name in columns.inputs)


def normalised(row: Row, columns: Columns) -> Key:
    """Return what is equal where the inputs of two rows are, case and blanks aside."""
    key = exact(row, columns)
    return key if columns.files else tuple(" ".join(part.casefold().split()) for part in key)


def _exact(row: Row, name: str, columns: Columns) -> str:
    value: Any = row.values.get(name)
    if value is None:
        return ""
    if columns.files:
        try:
            path = row.path(name)
            found = path.stat()
            return _digest(path, found.st_size, found.st_mtime_ns)
        except (DataError, OSError):  # whatever is wrong with a file, the task says it
            return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


@lru_cache(maxsize=1_000_000)
def _digest(path: Path, size: int, changed: int) -> str:
    """Return a digest of a file, which is read once for all that asks of it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
