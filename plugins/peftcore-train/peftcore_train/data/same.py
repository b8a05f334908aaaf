"""When two rows are the same: exactly, or with case and blanks aside."""

import hashlib
import json
from typing import Any

from peftcore_train.data.rows import Columns, Row

Key = tuple[str, ...]


def exact(row: Row, columns: Columns) -> Key:
    """Return what is equal where the inputs of two rows are: the text, or the bytes of a file."""
    return tuple(_exact(row, name, columns) for name in columns.inputs)


def normalised(row: Row, columns: Columns) -> Key:
    """Return what is equal where the inputs of two rows are, case and blanks aside."""
    if columns.files:
        return exact(row, columns)
    return tuple(" ".join(part.casefold().split()) for part in exact(row, columns))


def _exact(row: Row, name: str, columns: Columns) -> str:
    value: Any = row.values.get(name)
    if value is None:
        return ""
    if columns.files:
        try:
            return hashlib.sha256(row.path(name).read_bytes()).hexdigest()
        except Exception:  # whatever is wrong with a file, the task says it
            return f"{row.where} {value}"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
