"""Pieces that get no gradient are found in the first backward pass, in any loop."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from peftcore.adapter.state import Attached, state_of
from peftcore.run.recomputing import in_reentrant


class DeadPieceWarning(UserWarning):
    """A piece got no gradient in the first backward pass."""


def watch(adapter: Attached) -> None:
    """Look at the end of the next backward pass whether everything trained got a gradient."""
    waiting = dict(adapter.named_parameters())
    handles: list[Any] = []
    queued = False

    def report() -> None:
        for handle in handles:
            handle.remove()
        _warn(adapter, list(waiting))

    def hook(name: str) -> Callable[[torch.Tensor], None]:
        def got(_: torch.Tensor) -> None:
            nonlocal queued
            waiting.pop(name, None)
            if queued:
                return
            queued = True
            if not in_reentrant():
                torch.autograd.Variable._execution_engine.queue_callback(report)
            elif adapter.model is not None:
                # the pass that is ending is that of one part alone
                state_of(adapter.model).holder.first_run = report

        return got

    for name, parameter in list(waiting.items()):
        handles.append(parameter.register_post_accumulate_grad_hook(hook(name)))


def _warn(adapter: Attached, dead: list[str]) -> None:
    if dead:
        more = f" and {len(dead) - 1} more" if len(dead) > 1 else ""
        warnings.warn(
            f"{dead[0]}{more} of adapter {adapter.name!r} got no gradient in the first backward"
            " pass. If the model uses that place in other passes, all is well; if not, it trains"
            " nothing: leave it out with exclude (adapter.check_alive() raises).",
            DeadPieceWarning,
            stacklevel=2,
        )
