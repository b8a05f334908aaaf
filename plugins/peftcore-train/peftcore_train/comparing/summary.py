"""What a comparison found: one entry for each arm, one for each pair of arms."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftcore import CheckpointError
from peftcore_train import row_scores, rundir
from peftcore_train.comparing.cells import Cell
from peftcore_train.comparing.choosing import chosen
from peftcore_train.comparing.paired import CONFIDENCE, interval, pairs
from peftcore_train.reading import greater_is_better


def summary(folder: Path, cells: Sequence[Cell], failed: dict[str, str]) -> dict[str, Any]:
    """Return what ``comparison.json`` holds."""
    metric, greater = "", greater_is_better(cells[0].job)
    found: dict[str, Any] = {}
    for name in dict.fromkeys(cell.arm for cell in cells):
        mine = [cell for cell in cells if cell.arm == name]
        number = chosen(folder, [c for c in mine if c.seed == cells[0].seed])
        runs = [_run(folder, cell) for cell in mine if cell.number == number]
        found[name] = _arm(folder, mine, number, [run for run in runs if run])
        metric = next((run["metric"] for run in runs if run), metric)
    quantity, rows = _rows(folder, found, metric)
    scores = {n: {r["seed"]: r["test"][metric] for r in arm["runs"]} for n, arm in found.items()}
    there = {name: values for name, values in scores.items() if values}
    return {
        "name": cells[0].job.recipe.name,
        "task": cells[0].job.task_type,
        "backbone": cells[0].job.recipe.backbone.source,
        "metric": metric,
        "greater_is_better": greater,
        "seeds": sorted({cell.seed for cell in cells}),
        "confidence": CONFIDENCE,
        "rows_judged_by": quantity,
        "arms": found,
        "pairs": pairs(there, rows),
        "runs": sum(len(arm["runs"]) for arm in found.values()),
        "failed": failed,
    }


def _run(folder: Path, cell: Cell) -> dict[str, Any] | None:
    place = folder / cell.place
    if not (place / rundir.RESULTS).is_file():
        return None
    results = rundir.read_json(place / rundir.RESULTS)
    kept = ("metric", "parameters", "validation", "test", "best", "steps")
    adapter = place / rundir.ADAPTER
    return {
        "seed": cell.seed,
        "run": cell.place.as_posix(),
        **{name: results[name] for name in kept},
        "seconds": results["time"]["total_seconds"],
        "peak_bytes": results["time"]["peak_bytes"],
        "adapter_bytes": sum(p.stat().st_size for p in adapter.rglob("*") if p.is_file()),
    }


def _arm(
    folder: Path, cells: Sequence[Cell], number: int | None, runs: list[dict[str, Any]]
) -> dict[str, Any]:
    first = next(cell for cell in cells if number is None or cell.number == number)
    found: dict[str, Any] = {"methods": list(first.job.recipe.methods), "setting": first.setting}
    if first.number:
        tried = {c.number: c for c in cells if c.seed == cells[0].seed}
        found["settings"] = [_tried(folder, cell) for cell in tried.values()]
    if not runs:
        return {**found, "runs": []}
    metric = runs[0]["metric"]
    for split in ("validation", "test"):
        found[split] = interval([run[split][metric] for run in runs])
    return {
        **found,
        "parameters": runs[0]["parameters"],
        "seconds": float(np.mean([run["seconds"] for run in runs])),
        "peak_bytes": max(run["peak_bytes"] for run in runs),
        "adapter_bytes": max(run["adapter_bytes"] for run in runs),
        "runs": runs,
    }


def _tried(folder: Path, cell: Cell) -> dict[str, Any]:
    run = _run(folder, cell)
    score = None if run is None else run["validation"][run["metric"]]
    return {"setting": cell.setting, "validation": score, "run": cell.place.as_posix()}


def _rows(
    folder: Path, arms: dict[str, Any], metric: str
) -> tuple[str | None, dict[str, dict[int, np.ndarray]]]:
    """Return what test rows are judged by, and the numbers of the rows by arm and seed."""
    quantity = None
    found: dict[str, dict[int, np.ndarray]] = {}
    for name, arm in arms.items():
        found[name] = {}
        for run in arm["runs"]:
            try:
                kept = row_scores.read(folder / run["run"] / rundir.ROWS)
                quantity, _, values = row_scores.of_metric(kept, metric)
            except CheckpointError:
                continue  # trained by a version, or for a task, that kept nothing of its rows
            found[name][run["seed"]] = values.numpy()
    return quantity, found
