"""Comparing tensors within a tolerance, with a message that says which ones."""

import torch
from torch import Tensor


def check_close(
    found: Tensor, expected: Tensor, what: str, *, atol: float, rtol: float = 1e-5
) -> None:
    """Check that two tensors agree within a tolerance.

    Raises:
        AssertionError: they do not; the message begins with what was compared.
    """

    def named(text: str) -> str:
        return f"{what}: {text}"

    torch.testing.assert_close(found, expected, atol=atol, rtol=rtol, msg=named)
