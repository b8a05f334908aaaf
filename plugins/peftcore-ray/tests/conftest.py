"""A recipe that compares, on a small BERT."""

from pathlib import Path

import pytest
import yaml

from peftcore_train.testing import write_toy


@pytest.fixture
def recipe(tmp_path) -> Path:
    write_toy(tmp_path, rows=12)
    content = {
        "name": "spread",
        "seeds": [0, 1],
        "backbone": {"source": str(tmp_path / "bert")},
        # the schedule of the last one has no room in 2 steps
        "compare": {
            "bitfit": ["bitfit"],
            "dead": [{"method": "adalora", "tinit": 2, "tfinal": 2}],
        },
        "task": {"type": "sequence-classification"},
        "data": {"source": str(tmp_path / "data")},
        "train": {"max_steps": 2, "batch_size": 12, "device": "cpu"},
        "output": str(tmp_path / "runs"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return tmp_path / "recipe.yaml"
