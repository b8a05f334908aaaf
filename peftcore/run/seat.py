"""What peftcore keeps at one rewritten module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from peftcore.errors import AttachError
from peftcore.method.placed import Placed
from peftcore.run.holder import ContextHolder, Setting

if TYPE_CHECKING:
    from torch import nn

#: Name of the seat among the attributes of a rewritten module.
SEAT = "_peftcore"


class Seat:
    """What peftcore keeps at one rewritten module.

    Attributes:
        holder: the context of the call that is running.
        program: what runs in the module's call; None while no active adapter has a piece here.
        placed: the pieces of each adapter, in its order.
        casts: parameters that an adapter holds in another dtype, with the base's dtype.
        ran: the setting with which the module last ran for a backward pass.
    """

    __slots__ = ("casts", "holder", "placed", "program", "ran")

    def __init__(self, holder: ContextHolder):
        self.holder = holder
        self.program: Any = None
        self.placed: dict[str, list[Placed]] = {}
        self.casts: dict[str, torch.dtype] = {}
        self.ran: Setting | None = None

    def note(self) -> None:
        """Note what runs now, or, in the recomputation of a checkpoint, check that it is the same.

        Raises:
            AttachError: other adapters are active than in the forward pass.
        """
        if self.holder.first_run is not None:
            watch, self.holder.first_run = self.holder.first_run, None
            watch()
        if self.holder.carried:
            return
        setting = self.holder.effective()
        in_backward = torch._C._current_graph_task_id() != -1
        if in_backward and self.ran is not None and self.ran is not setting:
            raise AttachError(
                "a checkpointed part of the model is computed again in backward while other"
                " adapters are active than in its forward, so that gradients would be wrong: call"
                " backward before you switch, or inside of the same block."
            )
        if not in_backward:
            self.ran = setting


def seat_of(module: nn.Module) -> Seat:
    """Return the seat of a rewritten module."""
    found: Seat = module.__dict__[SEAT]
    return found
