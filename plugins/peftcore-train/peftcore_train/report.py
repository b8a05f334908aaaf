"""Tables of results on stdout."""

from typing import Any

from rich.console import Console
from rich.table import Table

Results = dict[str, dict[str, Any]]


def print_results(results: Results) -> None:
    """Print one line for each arm: what was trained, how well it does, how long it took."""
    metric = next((r["metric"] for r in results.values() if "metric" in r), "")
    table = Table()
    table.add_column("method")
    for name in ("trainable", "percent", f"validation {metric}", f"test {metric}", "seconds"):
        table.add_column(name, justify="right")
    for arm, result in results.items():
        if "metric" not in result:
            table.add_row(arm, *["failed"] * 5)
            continue
        counts = result["parameters"]
        table.add_row(
            arm or "+".join(m["method"] for m in result["methods"]) or "head alone",
            f"{counts['trainable']:,}",
            f"{counts['percent_of_total']:.4f}",
            number(result["validation"][metric]),
            number(result["test"][metric]),
            f"{result['time']['total_seconds']:.0f}",
        )
    Console().print(table)


def print_scores(scores: dict[str, dict[str, Any]], split: str) -> None:
    """Print the metrics of one split, a line for each arm."""
    table = Table()
    names = list(next(iter(scores.values())))
    if any(scores):
        table.add_column("method")
    for name in names:
        table.add_column(f"{split} {name}", justify="right")
    for arm, values in scores.items():
        cells = [number(values[name]) for name in names]
        table.add_row(*([arm] if any(scores) else []), *cells)
    Console().print(table)


def number(value: float | int | None) -> str:
    """Return a metric for a table."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}"
