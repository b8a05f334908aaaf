"""What every task must do. Subclass the contract in a test file; it needs pytest."""

import pytest

# the asserts of the contract shall show their values, as those of a test file do
for _name in ("damaged", "described", "on_rows", "scored", "trained"):
    pytest.register_assert_rewrite(f"{__name__}.{_name}")

from peftcore_train.testing.contract import TaskContract  # noqa: E402
from peftcore_train.testing.program import bars_of  # noqa: E402
from peftcore_train.testing.toys import write_recipe, write_toy  # noqa: E402

__all__ = ["TaskContract", "bars_of", "write_recipe", "write_toy"]
