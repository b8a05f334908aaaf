"""A recipe on a small BERT."""

from pathlib import Path

import pytest
import yaml

from peftcore_train.testing import write_toy


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("base")
    write_toy(root, rows=8, train=24)
    return root


@pytest.fixture
def recipe(tmp_path, base):
    """Return a function that writes a recipe with some sections changed, and gives its path."""

    def write(train=None, **changes) -> Path:
        content = {
            "name": "toy",
            "backbone": {"source": str(base / "bert")},
            "methods": [{"method": "lora", "rank": 2}],
            "task": {"type": "sequence-classification"},
            "data": {"source": str(base / "data")},
            "train": {"epochs": 2, "batch_size": 8, "device": "cpu", **(train or {})},
            "output": str(tmp_path / "runs"),
            **changes,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write
