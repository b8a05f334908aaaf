"""When two rows are the same: exactly, or with case and blanks aside."""

import json
from typing import Any

from peftcore import DataError
from peftcore_train.data.files import digest, located
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
            return digest(located(row, name), row.where)
        except DataError:  # whatever is wrong with a file, the task says it
            return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
