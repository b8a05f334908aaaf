"""Tables of results on stdout."""

from typing import Any

from rich.console import Console
from rich.table import Table

Results = dict[str, dict[str, Any]]


def print_results(results: Results) -> None:
    """Print one line for each arm: what was trained, how well it does, how long it took."""
    metric = next(iter(results.values()))["metric"]
    table = Table()
    table.add_column("method")
    for name in ("trainable", "percent", f"validation {metric}", f"test {metric}", "seconds"):
        table.add_column(name, justify="right")
    for arm, result in results.items():
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


def print_plans(plans: dict[str, dict[str, Any]]) -> None:
    """Print what would be trained, a table for each arm."""
    console = Console()
    for arm, plan in plans.items():
        table = Table(title=arm or None, title_justify="left")
        for name in ("method", "role"):
            table.add_column(name)
        for name in ("sites", "trainable"):
            table.add_column(name, justify="right")
        for site in plan["sites"]:
            table.add_row(
                site["method"], site["role"], str(site["sites"]), f"{site['trainable']:,}"
            )
        console.print(table)
        counts, memory = plan["parameters"], plan["memory_mb"]
        console.print(
            f"trainable {counts['trainable']:,} of {counts['base']:,}"
            f" ({counts['percent_of_total']:.4f} % of total), head {counts['head']:,};"
            f" weights {memory['weights']:,} MiB, values with gradients and moments"
            f" {memory['training']:,} MiB, activations besides",
            highlight=False,
            soft_wrap=True,
        )
