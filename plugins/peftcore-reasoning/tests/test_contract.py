"""The contract of tasks, on those of this plugin."""

from pathlib import Path
from typing import Any

import pytest

from peftcore_train.task import Batch
from peftcore_train.testing import TaskContract

SUMS = [(1, 2), (3, 3), (5, 4), (7, 1), (2, 2), (6, 0), (8, 1), (4, 3)]


def split(**columns: Any) -> dict[str, list[dict]]:
    rows = [{name: make(a, b) for name, make in columns.items()} for a, b in SUMS]
    return {"train": rows, "validation": rows[:4], "test": rows[5:]}


class OfTokens(TaskContract):
    """The loss is the mean over tokens."""

    epochs, learning_rate = 2, 1e-2

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, llama: Path) -> Path:
        return llama

    def terms(self, batch: Batch, rows: int) -> float:
        return len(batch["targets"])


class TestReasoning(OfTokens):
    task = "reasoning"
    config = {"prompt_style": "plain", "max_new_tokens": 4}
    rows = split(
        instruction=lambda a, b: f"{a}+{'1+' * a}{b}?",
        input=lambda a, b: "",
        output=lambda a, b: f"it is {2 * a + b}",
        answer=lambda a, b: f"{2 * a + b}",
    )
    answers = ("output", "answer")
    empty = ("input", "output")


class TestInstruction(OfTokens):
    task = "instruction"
    config = {"prompt_style": "plain", "max_new_tokens": 2, "generator": "mine"}
    rows = split(
        instruction=lambda a, b: "add" + "!" * a,
        input=lambda a, b: f"{a} {b}" if a % 2 else "",
        output=lambda a, b: f"{a + b}",
    )
    answers = ("output",)
    empty = ("input",)


class TestGlue(TaskContract):
    task = "glue"
    config = {"dataset": "mrpc"}
    rows = split(
        sentence1=lambda a, b: "it is " + "not " * (a % 3) + ("fine" if a > 4 else "dull"),
        sentence2=lambda a, b: "a film " * b + "so",
        label=lambda a, b: "equivalent" if a > 4 else 0,
    )
    answers = ("label",)
    epochs, learning_rate = 3, 1e-2

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, roberta: Path) -> Path:
        return roberta
