"""The table of a comparison."""

from typing import Any

from peftcore_train.fitting import Column
from peftcore_train.report import number

#: The three ways to give the trainable share, as a plan names them.
CONVENTIONS = {"of_total": "% of total", "of_base": "% of base", "of_blocks": "% of blocks"}


def best_arm(found: dict[str, Any]) -> str | None:
    """Return the arm with the best mean validation score, which the others are tested against."""
    scores = {name: arm["validation"]["mean"] for name, arm in found["arms"].items() if arm["runs"]}
    scores = {name: mean for name, mean in scores.items() if mean is not None}
    if not scores:
        return None
    better = max if found["greater_is_better"] else min
    return better(scores, key=lambda name: scores[name])


def against(found: dict[str, Any], arm: str, other: str, name: str) -> float | None:
    """Return a p value of the test of two arms, corrected for the number of pairs."""
    for pair in found["pairs"]:
        if {arm, other} == set(pair["arms"]):
            value: float | None = pair[f"{name}_corrected"]
            return value
    return None


def columns_of(found: dict[str, Any]) -> list[Column]:
    """Return the columns of the table, in which an arm is a line."""
    arms, metric, best = found["arms"], found["metric"], best_arm(found)
    columns = [Column("method", list(arms))]
    columns += [
        Column(f"{split} {metric}", [_mean(arm.get(split)) for arm in arms.values()])
        for split in ("test", "validation")
    ]
    if len(arms) > 1 and best:
        for name, title in (("p_rows", "p rows"), ("p_seeds", "p seeds")):
            cells = [_p(against(found, arm, best, name), arm == best) for arm in arms]
            columns.append(Column(title, cells))
    columns.append(Column("trainable", [_count(arm) for arm in arms.values()]))
    for key, title in CONVENTIONS.items():
        shares = [_share(arm, f"percent_{key}") for arm in arms.values()]
        columns.append(Column(title, shares))
    columns += [
        Column("seconds", [f"{a['seconds']:.0f}" if a["runs"] else "-" for a in arms.values()]),
        Column("peak memory", [size(a.get("peak_bytes")) for a in arms.values()]),
        Column("adapter", [size(a.get("adapter_bytes")) for a in arms.values()]),
    ]
    if any(arm["setting"] for arm in arms.values()):
        columns.append(Column("setting", [_setting(arm["setting"]) for arm in arms.values()]))
    return columns


def notes(found: dict[str, Any]) -> list[str]:
    """Return what a reader of the table should know besides."""
    seeds, best = found["seeds"], best_arm(found)
    spread = "± half of the 95 % confidence interval over seeds (Student's t); " * (len(seeds) > 1)
    said = [f"{spread}{len(seeds)} seed{'s' * (len(seeds) > 1)}; head parameters are not counted."]
    if len(found["arms"]) > 1 and best:
        judged = found["rows_judged_by"] or "nothing that was kept"
        said.append(
            f"p: against {best}, the best by validation; over test rows ({judged}), and over seeds"
            " (paired t test); corrected by Holm for"
            f" {len(found['pairs'])} pair{'s' * (len(found['pairs']) > 1)}."
        )
    return said


def size(number_of_bytes: float | None) -> str:
    """Return a number of bytes as people read it."""
    if number_of_bytes is None:
        return "-"
    value = float(number_of_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"


def _mean(found: dict[str, Any] | None) -> str:
    if found is None:
        return "failed"
    if found["mean"] is None or found["low"] is None:
        return number(found["mean"])
    return f"{found['mean']:.4f} ±{(found['high'] - found['low']) / 2:.4f}"


def _p(value: float | None, best: bool) -> str:
    if best:
        return "best"
    return "-" if value is None else "<.0001" if value < 1e-4 else f"{value:.4f}"


def _count(arm: dict[str, Any]) -> str:
    return f"{arm['parameters']['trainable']:,}" if arm["runs"] else "-"


def _share(arm: dict[str, Any], name: str) -> str:
    value = arm["parameters"][name] if arm["runs"] else None
    return "-" if value is None else f"{value:.4f}"


def _setting(setting: dict[str, Any]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in setting.items())
