"""The two ends of a bottleneck beside an MLP, and the middle layer that blocks of towers share."""

import math
import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Context, Transform


class Middle(nn.Module):
    """S [r, r] with a bias, random at the start; towers meet in it."""

    def __init__(self, rank: int):
        super().__init__()
        bound = 1 / math.sqrt(rank)
        self.weight = nn.Parameter(torch.empty(rank, rank).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(rank))


class Running(threading.local):
    """What the beginning of an MLP leaves for its end, within a call of one thread."""

    added: Tensor | None = None

    def __reduce__(self) -> Any:
        return Running, ()  # a copy is in no call


class KaBottleneck(Transform):
    """Leaves s U act(S act(D x)) for the end of the MLP, x being what enters it, and act GELU.

    U, and with it what is added, is zero at the start. Computed in the dtype of its own tensors,
    fp32 unless the adapter is told otherwise.
    """

    where = "input"
    casts_itself = True

    def __init__(self, width: int, middle: Middle, scale: float, running: Running):
        super().__init__()
        rank = len(middle.bias)
        self.middle = middle
        self.scale = scale
        self.running = running
        self.down = nn.Parameter(torch.zeros(rank, width))
        self.down_bias = nn.Parameter(torch.zeros(rank))
        self.up = nn.Parameter(torch.zeros(width, rank))
        self.up_bias = nn.Parameter(torch.zeros(width))

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Draw D as torch's linear layers are; U stays zero."""
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return what enters the MLP, [..., d], as it came."""
        # of a model on several devices the middle may be elsewhere
        weight, bias = (t.to(self.down.device) for t in (self.middle.weight, self.middle.bias))
        inner = F.gelu(F.linear(hidden.to(self.down.dtype), self.down, self.down_bias))
        inner = F.gelu(F.linear(inner, weight, bias))
        added = F.linear(inner, self.up, self.up_bias) * self.scale
        self.running.added = added.to(hidden.dtype)
        return hidden


class AddBottleneck(Transform):
    """Adds to what leaves an MLP what :class:`KaBottleneck` left."""

    casts_itself = True

    def __init__(self, running: Running):
        super().__init__()
        self.running = running

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return what leaves the MLP, [..., d], with the summand."""
        added = self.running.added
        # the tensors of a call are not held beyond it
        self.running.added = None
        assert added is not None, "the end of an MLP ran without its beginning"
        return hidden + added
