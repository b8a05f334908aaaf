"""The runs of a comparison: every arm with every setting and seed. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftcore import ConfigError
from peftcore_train import rundir
from peftcore_train.arms import parts
from peftcore_train.recipes import Document, Problems
from peftcore_train.schema import Job, checked_job


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        job: what is trained; its arm is the cell's.
        setting: what was chosen from the arm's grid.
        number: number of the setting among those of the arm, from 1; 0 where there is no grid.
        document: its recipe.
    """

    job: Job
    setting: dict[str, Any]
    number: int
    document: Document

    @property
    def arm(self) -> str:
        """Name of the arm."""
        return self.job.arm

    @property
    def seed(self) -> int:
        """The seed."""
        return self.job.recipe.seed

    @property
    def place(self) -> Path:
        """Where the run lies in the directory of the comparison."""
        setting = [f"setting-{self.number}"] if self.number else []
        return Path(self.arm, *setting, f"seed-{self.seed}")

    @property
    def shown(self) -> str:
        """The cell as lines name it."""
        setting = f", setting {self.number}" if self.number else ""
        return f"{self.arm}{setting}, seed {self.seed}"


def cells_of(document: Document) -> list[Cell]:
    """Return every run of a comparison, checked as far as that goes without the data.

    Raises:
        ConfigError: all problems at once, sorted by line.
        UnknownName: one of them is a name that no plugin provides.
    """
    found = Problems()
    cells = []
    numbers: dict[str, list[dict[str, Any]]] = {}
    for part in parts(document, found):
        job = checked_job(part.document, found, part.arm or str(document.data.get("name")))
        if job is None:
            continue
        settings = numbers.setdefault(job.arm, [])
        if part.setting and part.setting not in settings:
            settings.append(part.setting)
        number = settings.index(part.setting) + 1 if part.setting else 0
        cells.append(Cell(job, part.setting, number, part.document))
    found.raise_any()
    _check_alike(document, cells)
    return cells


def _check_alike(document: Document, cells: Sequence[Cell]) -> None:
    """Raise ConfigError where arms have different tasks, data or metrics: they compare nothing."""
    first = cells[0].job
    for cell in cells:
        recipe = cell.job.recipe
        for name, mine, other in (
            ("task", recipe.task, first.recipe.task),
            ("data", recipe.data, first.recipe.data),
            ("train.metric_for_best", *(r.train.metric_for_best for r in (recipe, first.recipe))),
        ):
            if mine != other:
                raise ConfigError(
                    f"{document.file}: {name} of arm {cell.arm} is not that of {first.arm}; what is"
                    " compared has one task, one data set and one metric."
                )


def write_recipes(folder: Path, cells: Sequence[Cell]) -> None:
    """Write the recipe of each run in its own directory, where it is not yet."""
    for cell in cells:
        place = folder / cell.place
        if not (place / rundir.CONFIG).is_file():
            place.mkdir(parents=True, exist_ok=True)
            rundir.write_config(place, cell.document.data)
