"""The contracts of the backbone and of the two tasks."""

from pathlib import Path

import pytest

from peftcore.testing import BackboneContract
from peftcore_train.testing import TaskContract


class TestEsm(BackboneContract):
    backbone = "esm"
    heads = ("none", "sequence-classification", "token-classification", "masked-lm")


SEQUENCES = ["LAGLAGL", "WCW", "GALLAGLAGL", "CWWC", "LAG", "MWCWWCMWCWWC", "AGLA", "WCWMC"]


def split(rows: list[dict]) -> dict[str, list[dict]]:
    return {"train": rows, "validation": rows[:5], "test": rows[3:]}


class TestPPI(TaskContract):
    task = "protein-ppi"
    rows = split([
        {"s0": one, "s1": SEQUENCES[(i + 2) % 8], "label": str(i % 2)}
        for i, one in enumerate(SEQUENCES)
    ])  # fmt: skip
    answers = ("label",)

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, esm: Path) -> Path:
        return esm


class TestPPIAsReleased(TestPPI):
    config = {"released_padding": True, "train_pooler": True}


class TestSymmetry(TaskContract):
    task = "protein-symmetry"
    rows = split([
        {"sequence": sequence, "label": label}
        for sequence, label in zip(SEQUENCES, ["C1", "C2 D3"] * 4, strict=True)
    ])  # fmt: skip
    answers = ("label",)

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, esm: Path) -> Path:
        return esm
