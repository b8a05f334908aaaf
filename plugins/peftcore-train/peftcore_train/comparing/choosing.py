"""The setting with which an arm goes on, by the validation scores of its first seed."""

from collections.abc import Sequence
from pathlib import Path

from peftcore_train import rundir
from peftcore_train.comparing.cells import Cell
from peftcore_train.reading import greater_is_better


def chosen(folder: Path, tried: Sequence[Cell]) -> int | None:
    """Return the number of the setting with the best validation score; None if all failed."""
    scores = {}
    for cell in tried:
        file = folder / cell.place / rundir.RESULTS
        if file.is_file():
            results = rundir.read_json(file)
            scores[cell.number] = results["validation"][results["metric"]]
    if not scores:
        return None
    better = max if greater_is_better(tried[0].job) else min
    return better(scores, key=lambda number: scores[number])
