"""The bottleneck and the pieces that put it before, after or beside a module."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Context, Delta, LayerInfo, Transform, trainable_dtype

_ACT = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh}


class Bottleneck(nn.Module):
    """A(x) = s up(act(down(dropout(x)))).

    Computed in the dtype of its own tensors, fp32 unless the adapter is told otherwise, and cast
    back, as LLM-Adapters does; where autocast is on, that decides.
    """

    def __init__(
        self, layer: LayerInfo, width_in: int, width_out: int, *, bottleneck: int, act_fn: str,
        scale: float, learn_scale: bool, bias: bool, init: str, dropout: float,
    ):  # fmt: skip
        super().__init__()
        made: dict[str, Any] = {"dtype": trainable_dtype(layer.dtype), "device": layer.device}
        self.down = nn.Linear(width_in, bottleneck, bias=bias, **made)
        self.up = nn.Linear(bottleneck, width_out, bias=bias, **made)
        self.act = _ACT[act_fn]
        self.scale: float | nn.Parameter = scale
        if learn_scale:
            self.scale = nn.Parameter(torch.full((), scale, **made))
        self.dropout = dropout
        _start(self.down, self.up, init)

    def forward(self, x: Tensor) -> Tensor:
        """Return what is to be added, [..., out], for activations [..., in]."""
        wide = F.dropout(x.to(self.down.weight.dtype), self.dropout, self.training)
        added: Tensor = self.up(self.act(self.down(wide))) * self.scale
        return added.to(x.dtype)


@torch.no_grad()
def _start(down: nn.Linear, up: nn.Linear, init: str) -> None:
    for linear in (down, up):
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)
        if init == "bert":
            nn.init.normal_(linear.weight, std=0.02)
        elif init == "houlsby":
            nn.init.trunc_normal_(linear.weight, std=0.01, a=-0.02, b=0.02)
    if init == "mam":
        nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
        nn.init.zeros_(up.weight)


class After(Transform):
    """Series adapter after a module: z + A(z)."""

    casts_itself = True

    def __init__(self, bottleneck: Bottleneck):
        super().__init__()
        self.bottleneck = bottleneck

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return the hidden states, [..., d], with what the adapter adds."""
        return hidden + self.bottleneck(hidden)  # type: ignore[no-any-return]


class Before(After):
    """Series adapter before a module: f(x + A(x))."""

    where = "input"


class Parallel(Delta):
    """Adapter beside a module: f(x) + A(x)."""

    casts_itself = True

    def __init__(self, bottleneck: Bottleneck):
        super().__init__()
        self.bottleneck = bottleneck

    def forward(self, x: Tensor) -> Tensor:
        """Return the summand, [..., out], for activations [..., in]."""
        return self.bottleneck(x)  # type: ignore[no-any-return]


class Handover:
    """What the beginning of a feed-forward part leaves for its end; one for a whole adapter.

    Parts do not run within each other. A checkpointed block may be recomputed no further than the
    beginning of its part; the next part then overwrites what was left. Copies start empty.
    """

    def __init__(self) -> None:
        self.left: Tensor | None = None

    def __getstate__(self) -> dict[str, None]:
        return {"left": None}


class Begin(Transform):
    """Reads what enters a feed-forward part and leaves A(x) for the :class:`End` of it."""

    where = "input"
    casts_itself = True

    def __init__(self, bottleneck: Bottleneck, handover: Handover):
        super().__init__()
        self.bottleneck = bottleneck
        self.handover = handover

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return the hidden states, [..., d], as they came."""
        self.handover.left = self.bottleneck(hidden)
        return hidden


class End(Transform):
    """Adds A(x) to what leaves the feed-forward part: FFN(x) + A(x)."""

    casts_itself = True

    def __init__(self, handover: Handover):
        super().__init__()
        self.handover = handover

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return the hidden states, [..., d], with what the adapter adds."""
        added = self.handover.left
        self.handover.left = None
        assert added is not None, "the end of a feed-forward part ran without its beginning"
        return hidden + added
