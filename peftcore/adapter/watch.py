"""Pieces that get no gradient are found in the first backward pass, in any loop."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from peftcore.adapter.state import Attached


class DeadPieceWarning(UserWarning):
    """A piece got no gradient in the first backward pass."""


def watch(adapter: Attached) -> None:
    """Look at the end of the next backward pass whether everything trained got a gradient."""
    handles: list[Any] = []

    def first_gradient(_: torch.Tensor) -> None:
        for handle in handles:
            handle.remove()
        if handles:
            handles.clear()
            torch.autograd.Variable._execution_engine.queue_callback(lambda: _report(adapter))

    for _, parameter in adapter.named_parameters():
        handles.append(parameter.register_post_accumulate_grad_hook(first_gradient))


def _report(adapter: Attached) -> None:
    dead = [name for name, parameter in adapter.named_parameters() if parameter.grad is None]
    if dead:
        more = f" and {len(dead) - 1} more" if len(dead) > 1 else ""
        warnings.warn(
            f"{dead[0]}{more} of adapter {adapter.name!r} got no gradient in the first backward"
            " pass. If the model uses that place in other passes, all is well; if not, it trains"
            " nothing: leave it out with exclude (adapter.check_alive() raises).",
            DeadPieceWarning,
            stacklevel=2,
        )
