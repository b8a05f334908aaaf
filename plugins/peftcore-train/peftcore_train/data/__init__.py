"""Rows of data, with the file and line of each, from every format. Imports no torch."""

from peftcore_train.data.files import content, located
from peftcore_train.data.formats import of_text, read_all, read_rows
from peftcore_train.data.lines import Found, decoded, rows_of_json
from peftcore_train.data.rows import Columns, Row, report
from peftcore_train.data.splits import drawn, read_split

__all__ = [
    "Columns",
    "Found",
    "Row",
    "content",
    "decoded",
    "drawn",
    "located",
    "of_text",
    "read_all",
    "read_rows",
    "read_split",
    "report",
    "rows_of_json",
]
