"""The contract of tasks, with answers that are written and scored."""

from pathlib import Path

import pytest

from peftcore_train.task import Batch
from peftcore_train.testing import TaskContract

CHANGES = [
    ("a = b", "a = c"), ("if a : b", "if a : c"), ("return a", "return b + c"), ("a ( b )", "b"),
    ("for a in b : c", "for c in b : a"), ("x = 1", "x = 2"), ("def a ( )", "def b"), ("c", "b"),
]  # fmt: skip
ROWS = [
    {"patch": f"@@ -1,2 +1,2 @@\n x\n-{old}\n+{new}", "y": i % 2}
    for i, (old, new) in enumerate(CHANGES)
]


class TestNecessity(TaskContract):
    task = "code-review"
    config = {"action": "necessity", "max_new_tokens": 2}
    rows = {"train": ROWS, "validation": ROWS[:5], "test": ROWS[3:]}
    answers = ("y",)
    epochs, learning_rate = 2, 2e-2

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, reviewer: Path) -> Path:
        return reviewer

    def terms(self, batch: Batch, rows: int) -> float:
        return int((batch["labels"] != -100).sum())
