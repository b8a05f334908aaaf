"""Tables that fit the terminal: columns that have no room follow in further tables."""

from collections.abc import Sequence
from html import escape
from io import StringIO
from typing import NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

#: Narrowest first column, whose names are then broken.
_NARROWEST = 12


class Column(NamedTuple):
    """One column.

    Attributes:
        title: what it holds.
        cells: one text for each row.
    """

    title: str
    cells: Sequence[str]

    @property
    def width(self) -> int:
        """Cells of the widest line; a title may be broken between words."""
        words = self.title.split()
        return max(cell_len(text) for text in (*words, *self.cells))


def print_fitting(columns: Sequence[Column], console: Console | None = None) -> None:
    """Print a table on stdout, in several parts where it is too wide; each begins with the names.

    Args:
        columns: the columns; the first one has the names of the rows.
        console: where to print; stdout if not given.
    """
    console = console or Console(highlight=False)
    for part in fitting(columns, console.width):
        console.print(part)


def as_text(columns: Sequence[Column], width: int) -> str:
    """Return the tables as text."""
    console = Console(width=width, record=True, file=StringIO())
    print_fitting(columns, console)
    return console.export_text().rstrip()


def as_html(columns: Sequence[Column]) -> str:
    """Return the table as HTML, for notebooks."""
    heads = "".join(f'<th scope="col">{escape(column.title)}</th>' for column in columns)
    lines = [
        "".join(f"<td>{escape(cell)}</td>" for cell in row)
        for row in zip(*(column.cells for column in columns), strict=True)
    ]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def fitting(columns: Sequence[Column], width: int) -> list[Table]:
    """Return the tables that show the columns within a width."""
    names, rest = columns[0], list(columns[1:])
    widest = max((column.width for column in rest), default=0)
    first = min(names.width, max(_NARROWEST, width - widest - 7))
    parts: list[list[Column]] = [[]]
    left = width - first - 4
    for column in rest:
        if parts[-1] and column.width + 3 > left:
            parts.append([])
            left = width - first - 4
        parts[-1].append(column)
        left -= column.width + 3
    return [_table(names, first, part) for part in parts]


def _table(names: Column, width: int, columns: Sequence[Column]) -> Table:
    table = Table(box=box.SQUARE)
    table.add_column(names.title, width=width, overflow="fold")
    for column in columns:
        table.add_column(column.title, justify="right", width=column.width)
    for row in zip(names.cells, *(column.cells for column in columns), strict=True):
        table.add_row(*row)
    return table
