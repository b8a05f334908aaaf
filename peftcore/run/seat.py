"""What peftcore keeps at one rewritten module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from peftcore.method.placed import Placed
from peftcore.run.holder import ContextHolder

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
        parked: what each adapter holds besides what sits in the module; it is cast and moved with
            the module, by its method ``apply``.
    """

    __slots__ = ("casts", "holder", "parked", "placed", "program")

    def __init__(self, holder: ContextHolder):
        self.holder = holder
        self.program: Any = None
        self.placed: dict[str, list[Placed]] = {}
        self.casts: dict[str, torch.dtype] = {}
        self.parked: dict[str, list[Any]] = {}


def seat_of(module: nn.Module) -> Seat:
    """Return the seat of a rewritten module."""
    found: Seat = module.__dict__[SEAT]
    return found
