"""A comparison of two arms on a small BERT, trained once for all tests."""

from pathlib import Path

import pytest
import yaml

from peftcore.testing import run_in_process
from peftcore_train.testing import write_toy


@pytest.fixture(scope="session")
def compared(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("compared")
    write_toy(root, rows=12, train=24, end=" <b>&")
    recipe = {
        "name": "films",
        "seeds": [0, 1],
        "backbone": {"source": str(root / "bert")},
        "compare": {"bitfit": ["bitfit"], "head": [], "dead": DEAD},
        "task": {"type": "sequence-classification"},
        "data": {"source": str(root / "data")},
        "train": {"max_steps": 2, "batch_size": 12, "log_steps": 1, "device": "cpu"},
        "output": str(root / "runs"),
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    done = run_in_process("compare", root / "recipe.yaml", "--executor", "in-process", "-q")
    assert done.exit_code == 1, done.output
    (folder,) = (root / "runs").iterdir()
    return folder


#: Its schedule has no room in 2 steps.
DEAD = [{"method": "adalora", "tinit": 2, "tfinal": 2}]
