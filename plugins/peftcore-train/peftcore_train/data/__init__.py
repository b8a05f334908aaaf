"""Rows of data, with the file and line of each, from every format. Imports no torch."""

from peftcore_train.data.annotated import frame_of
from peftcore_train.data.files import content, located
from peftcore_train.data.formats import READERS, read_all, read_rows
from peftcore_train.data.lines import decoded, rows_of_text
from peftcore_train.data.rows import Columns, Row
from peftcore_train.data.splits import drawn, read_split

__all__ = [
    "READERS",
    "Columns",
    "Row",
    "content",
    "decoded",
    "drawn",
    "frame_of",
    "located",
    "read_all",
    "read_rows",
    "read_split",
    "rows_of_text",
]
