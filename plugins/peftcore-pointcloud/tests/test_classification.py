"""Point-cloud classification: the contract of tasks."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from peftcore.testing import tiny
from peftcore_train.testing import TaskContract

_KEPT: list[TemporaryDirectory] = []  # type: ignore[type-arg]


@cache
def clouds() -> dict[str, list[dict]]:
    """Write balls and sticks, and return rows with their paths."""
    _KEPT.append(TemporaryDirectory())
    folder, chance = Path(_KEPT[0].name), np.random.default_rng(0)
    rows = []
    for i in range(8):
        label, shape = [("ball", (1, 1, 1)), ("stick", (0.05, 0.05, 1))][i % 2]
        points = chance.normal(size=(20 + i, 3)) * shape
        np.save(folder / f"{i}.npy", points.astype("float32"))
        rows.append({"cloud": str(folder / f"{i}.npy"), "label": label})
    return {"train": rows, "validation": rows[:5], "test": rows[3:]}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    _, model, _ = tiny("point-transformer", "point-classification")
    model.save_pretrained(folder)
    return folder


class TestPointClassification(TaskContract):
    task = "point-classification"
    answers = ("label",)
    config = {"points": 16, "votes": 2, "scale": (0.9, 1.1)}
    epochs = 3
    learning_rate = 1e-2

    @property
    def rows(self):
        return clouds()

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, small: Path) -> Path:
        return small
