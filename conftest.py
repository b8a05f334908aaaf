"""What the tests of all distributions of this repository share."""

import pytest


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    """Seed torch before each test: a comparison within a tolerance shall not depend on luck."""
    import torch

    torch.manual_seed(0)
