"""Pieces that get no gradient are found after the first backward pass, in any loop."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from peftcore.adapter.state import Attached


class DeadPieceWarning(UserWarning):
    """A piece got no gradient in the first backward pass."""


class Watch:
    """Sees which trained tensors get a gradient in the first backward pass.

    It is called whenever a piece runs with gradients, until it has reported: at the next forward,
    because a backward pass that recomputes checkpointed parts has ends within it.
    """

    def __init__(self, adapter: Attached):
        self.adapter = adapter
        self._waiting: dict[str, Any] | None = None
        self._all = 0

    def __call__(self) -> bool:
        """Begin, or report once a backward pass is over; tell whether that is done."""
        if self._waiting is None:
            self._begin()
        if len(self._waiting or ()) == self._all or torch._C._current_graph_task_id() != -1:
            return False
        self.report()
        return True

    def _begin(self) -> None:
        waiting: dict[str, Any] = {}
        self._waiting = waiting
        for name, parameter in self.adapter.named_parameters():

            def seen(_: torch.Tensor, name: str = name) -> None:
                if (handle := waiting.pop(name, None)) is not None:
                    handle.remove()

            waiting[name] = parameter.register_post_accumulate_grad_hook(seen)
        self._all = len(waiting)

    def report(self) -> None:
        """Warn of what got no gradient, if a backward pass has been there."""
        dead = dict(self._waiting or {})
        if self._waiting is None or len(dead) == self._all:
            return
        for handle in dead.values():
            handle.remove()
        self._waiting.clear()
        if not dead:
            return
        more = f" and {len(dead) - 1} more" if len(dead) > 1 else ""
        warnings.warn(
            f"{next(iter(dead))}{more} of adapter {self.adapter.name!r} got no gradient in the"
            " first backward pass. If the model uses that place in other passes, all is well; if"
            " not, it trains nothing: leave it out with exclude (adapter.check_alive() raises).",
            DeadPieceWarning,
            stacklevel=2,
        )
