"""Tables of results on stdout, laid out anew where the terminal is narrow."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

Results = dict[str, dict[str, Any]]


def print_results(results: Results) -> None:
    """Print one line for each arm: what was trained, how well it does, how long it took."""
    metric = next((r["metric"] for r in results.values() if "metric" in r), "")
    header = ["method", "trainable", "percent", f"validation {metric}", f"test {metric}", "seconds"]
    rows = []
    for arm, result in results.items():
        if "metric" not in result:
            rows.append([arm, *["failed"] * 5])
            continue
        counts = result["parameters"]
        rows.append(
            [
                arm or "+".join(m["method"] for m in result["methods"]) or "head alone",
                f"{counts['trainable']:,}",
                f"{counts['percent_of_total']:.4f}",
                number(result["validation"][metric]),
                number(result["test"][metric]),
                f"{result['time']['total_seconds']:.0f}",
            ]
        )
    print_table(header, rows)


def print_scores(scores: dict[str, dict[str, Any]], split: str) -> None:
    """Print the metrics of one split, a line for each and a column for each arm."""
    names = list(next(iter(scores.values())))
    header = ["metric", *(f"{arm} {split}".strip() for arm in scores)]
    rows = [[name, *(number(values[name]) for values in scores.values())] for name in names]
    print_table(header, rows)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of numbers; one that is too wide for the terminal becomes a list of its rows.

    Args:
        header: names of the columns; they break at blanks.
        rows: cells of each row, the first of which names it.
    """
    console = Console()
    table = Table()
    for i, name in enumerate(header):
        table.add_column(name.replace(" ", "\n"), justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    unbounded = console.options.update(width=100_000)
    if console.measure(table, options=unbounded).maximum <= console.width:
        console.print(table)
        return
    longest = max(map(len, header[1:]), default=0)
    for row in rows:
        console.print(row[0], markup=False, highlight=False)
        for name, cell in zip(header[1:], row[1:], strict=True):
            console.print(f"  {name:<{longest}}  {cell}", markup=False, highlight=False)


def number(value: float | int | None) -> str:
    """Return a metric for a table."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}"
