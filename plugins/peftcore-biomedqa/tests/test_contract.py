"""The contract of tasks, with a contrast, draws and a soft prompt."""

from pathlib import Path

import pytest

from peftcore_train.testing import TaskContract

QUESTIONS = [
    ("does the gene grow", "it does in mice", "yes"), ("does the drug help", "harm people", "no"),
    ("does the cell shrink", "cell shrink in people", "yes"), ("does it harm", "no mice", "no"),
    ("does the cell grow", "it does", "yes"), ("does the gene shrink", "no gene", "no"),
    ("does it help", "it does help people in mice", "yes"), ("does the drug grow", "no", "no"),
]  # fmt: skip
ROWS = [{"question": q, "context": c, "label": label} for q, c, label in QUESTIONS]


class TestBiomedicalQA(TaskContract):
    task = "biomedical-qa"
    config = {
        "labels": {"yes": "yes", "no": "no"},
        "templates": ["ask {question} {context}", "{context} yes no maybe {question}"],
        "soft_prompt": 2,
        "samples": 2,
    }
    rows = {"train": ROWS, "validation": ROWS[:5], "test": ROWS[3:]}
    answers = ("label",)
    compares = weighted = True  # by the contrast
    epochs, learning_rate = 3, 1e-2
    remembered = 0.75  # of the contrast something is always left

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, t5: Path) -> Path:
        return t5
