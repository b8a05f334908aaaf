"""The contract of tasks on cells."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from peftcore_singlecell.testing import GENES, write_cells, write_scbert
from peftcore_train.task import Batch
from peftcore_train.testing import TaskContract

_KEPT: list[TemporaryDirectory] = []  # type: ignore[type-arg]


@cache
def cells() -> Path:
    """Return a file of 8 cells whose genes lie in another order than the backbone's."""
    _KEPT.append(TemporaryDirectory())
    return write_cells(Path(_KEPT[0].name, "toy.h5ad"), genes=[*GENES[::-1], "LONELY"])


def rows(*columns: str) -> dict[str, list[dict]]:
    """Return rows that name cells of the file, each in one split or in two."""
    made = [
        {"cells": str(cells()), "cell": f"c{i}", "celltype": ("beta", "alpha")[i % 2]}
        for i in range(8)
    ]
    made = [{name: row[name] for name in columns} for row in made]
    return {"train": made[:6], "validation": made[4:], "test": made[5:]}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return write_scbert(tmp_path_factory.mktemp("scbert"))


class CellContract(TaskContract):
    config = {"min_genes": 1}
    learning_rate = 1e-2

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, small: Path) -> Path:
        return small


class TestCellType(CellContract):
    task = "cell-type"
    answers = ("celltype",)
    epochs = 3

    @property
    def rows(self):
        return rows("cells", "cell", "celltype")


class TestMaskedExpression(CellContract):
    task = "masked-expression"
    predicts = False
    epochs = 10
    remembered = 0.8  # most of what is masked cannot be known

    @property
    def rows(self):
        return rows("cells", "cell")

    def terms(self, batch: Batch, rows: int) -> float:
        return len(batch["targets"])
