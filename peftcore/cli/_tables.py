"""Plain tables for a terminal, and JSON."""

import sys
from collections.abc import Sequence
from typing import Any

import click


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return an aligned table; on a terminal the last column is wrapped to its width."""
    cells = [[str(c) for c in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header) - 1)]
    before = sum(widths) + 2 * len(widths)
    lines = []
    for row in cells:
        first, *others = _wrapped(row[-1], before)
        padded = [c.ljust(w) for c, w in zip(row, widths, strict=False)]
        lines.append("  ".join([*padded, first]).rstrip())
        lines += [" " * before + line for line in others]
    return "\n".join(lines)


def _wrapped(text: str, before: int) -> list[str]:
    if not sys.stdout.isatty():
        return [text]
    from shutil import get_terminal_size
    from textwrap import wrap

    return wrap(text, max(20, get_terminal_size().columns - before)) or [""]


def print_json(value: Any) -> None:
    """Write a value as JSON on stdout."""
    import json

    click.echo(json.dumps(value, indent=2, default=str))


def amount(count: int) -> str:
    """Return a number of bytes in words, in units of powers of ten."""
    for power, unit in ((1e9, "GB"), (1e6, "MB")):
        if count >= power:
            return f"{count / power:.2f} {unit}"
    return f"{count / 1e3:.2f} kB"
