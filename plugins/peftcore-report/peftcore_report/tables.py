"""The tables of a page; each cell has what is shown and what it is sorted by."""

from dataclasses import dataclass
from typing import Any

from peftcore_report.rows import Seen
from peftcore_train.comparing.table import CONVENTIONS, against, best_arm, size
from peftcore_train.report import number


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what is shown.
        key: number to sort by; the text where there is none.
    """

    text: str
    key: float | None = None


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: its caption.
        columns: their titles.
        lines: its cells; the first of each line names it.
    """

    title: str
    columns: list[str]
    lines: list[list[Cell]]


def arms_table(found: dict[str, Any]) -> Table:
    """Return the arms of a comparison."""
    metric, best = found["metric"], best_arm(found)
    several = len(found["arms"]) > 1
    columns = ["method", f"test {metric}", "95 % interval", f"validation {metric}"]
    columns += ["p rows", "p seeds"] * several
    columns += ["trainable", "head", *CONVENTIONS.values(), "seconds", "peak memory", "adapter"]
    if settings := any(arm["setting"] for arm in found["arms"].values()):
        columns.append("setting")
    lines = []
    for name, arm in found["arms"].items():
        if not arm["runs"]:
            lines.append([Cell(name), *[Cell("failed")] * (len(columns) - 1)])
            continue
        test = arm["test"]
        line = [Cell(name), _number(test["mean"]), Cell("-")]
        if test["low"] is not None:
            line[2] = Cell(f"{test['low']:.4f} to {test['high']:.4f}", test["high"] - test["low"])
        line.append(_number(arm["validation"]["mean"]))
        if several:
            for p in ("p_rows", "p_seeds"):
                value = against(found, name, best, p) if best else None
                line.append(Cell("best", 2.0) if name == best else _number(value))
        counts = arm["parameters"]
        line += [Cell(f"{counts[k]:,}", counts[k]) for k in ("trainable", "head")]
        line += [_number(counts[f"percent_{key}"]) for key in CONVENTIONS]
        line.append(Cell(f"{arm['seconds']:.0f}", arm["seconds"]))
        line += [Cell(size(arm[key]), arm[key]) for key in ("peak_bytes", "adapter_bytes")]
        if settings:
            line.append(Cell(", ".join(f"{k}: {v}" for k, v in arm["setting"].items())))
        lines.append(line)
    return Table("Arms", columns, lines)


def pairs_table(found: dict[str, Any]) -> Table:
    """Return the tests of every two arms."""
    columns = ["pair", f"difference of test {found['metric']}", "p rows", "p seeds"]
    lines = [
        [
            Cell(" and ".join(pair["arms"])),
            Cell(f"{pair['difference']:+.4f}", pair["difference"]),
            _number(pair["p_rows_corrected"]),
            _number(pair["p_seeds_corrected"]),
        ]
        for pair in found["pairs"]
    ]
    return Table("Pairs of arms, p values corrected by Holm", columns, lines)


def classes_table(found: Seen) -> Table:
    """Return precision, recall and F1 of each label."""
    names = [name for name in (found.classes[0] if found.classes else {}) if name != "label"]
    lines = [
        [Cell(line["label"]), *(_cell(line[name]) for name in names)] for line in found.classes
    ]
    return Table("Test rows by label", ["label", *(n.replace("_", " ") for n in names)], lines)


def worst_table(found: Seen) -> Table:
    """Return the test rows that were judged worst."""
    filled = [n for n in (found.worst[0] if found.worst else {}) if any(w[n] for w in found.worst)]
    names = ["row", *(name for name in filled if name != "row")]
    lines = [[_cell(line[name]) for name in names] for line in found.worst]
    return Table("Worst test rows", names, lines)


def _number(value: float | None) -> Cell:
    return Cell(number(value), value)


def _cell(value: Any) -> Cell:
    if isinstance(value, str):
        return Cell(value)
    return Cell(str(value), value) if isinstance(value, int) else Cell(f"{value:.4f}", float(value))
