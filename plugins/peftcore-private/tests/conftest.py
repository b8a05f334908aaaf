"""A recipe on a small BERT."""

from functools import partial
from pathlib import Path

import pytest

from peftcore_train.testing import write_recipe, write_toy


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("base")
    write_toy(root, rows=8, train=24)
    return root


@pytest.fixture
def recipe(tmp_path, base):
    """Return a function that writes a recipe with some sections changed, and gives its path."""
    return partial(write_recipe, tmp_path / "recipe.yaml", base)
