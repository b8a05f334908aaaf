"""The bottleneck and the pieces that put it before, after or beside a module."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Context, Delta, Piece, Transform

_ACT = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh}


class Projection(nn.Linear):
    """A linear layer whose tensors are set by :meth:`Bottleneck.start`, or loaded."""

    def reset_parameters(self) -> None:
        """Draw nothing."""


class Bottleneck(nn.Module):
    """A(x) = s up(act(down(x))), dropout on x or after the activation, x normalised or not.

    Computed in the dtype of its own tensors, fp32 unless the adapter is told otherwise, and cast
    back, as LLM-Adapters does; where autocast is on, that decides.
    """

    def __init__(self, width_in: int, width_out: int, config: Any):
        super().__init__()
        self.norm = nn.LayerNorm(width_in) if config.layer_norm else nn.Identity()
        self.down = Projection(width_in, config.bottleneck, bias=config.bias)
        self.up = Projection(config.bottleneck, width_out, bias=config.bias)
        self.act = _ACT[config.act_fn]
        self.scale: float | nn.Parameter = config.scale
        if config.learn_scale:
            self.scale = nn.Parameter(torch.tensor(config.scale))
        inner = config.dropout_at == "inner"
        self.drop_input = 0.0 if inner else config.dropout
        self.drop_inner = config.dropout if inner else 0.0
        self.init = config.init

    def start(self) -> None:
        """Set the weights as ``init`` says, and the biases to zero."""
        for linear in (self.down, self.up):
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
            if self.init == "bert":
                nn.init.normal_(linear.weight, std=0.02)
            elif self.init == "houlsby":
                nn.init.trunc_normal_(linear.weight, std=0.01, a=-0.02, b=0.02)
        if self.init == "mam":
            nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
            nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return what is to be added, [..., out], for activations [..., in]."""
        wide = F.dropout(self.norm(x.to(self.down.weight.dtype)), self.drop_input, self.training)
        inner = F.dropout(self.act(self.down(wide)), self.drop_inner, self.training)
        added: Tensor = self.up(inner) * self.scale
        return added.to(x.dtype)


class _Adapting(Piece):
    """A piece that holds a bottleneck."""

    casts_itself = True

    def __init__(self, bottleneck: Bottleneck):
        super().__init__()
        self.bottleneck = bottleneck

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Set the bottleneck to its start."""
        self.bottleneck.start()


class After(_Adapting, Transform):
    """Series adapter after a module: z + A(z)."""

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return the hidden states, [..., d], with what the adapter adds."""
        return hidden + self.bottleneck(hidden)  # type: ignore[no-any-return]


class Before(After):
    """Series adapter before a module: f(x + A(x))."""

    where = "input"


class Parallel(_Adapting, Delta):
    """Adapter beside a module: f(x) + A(x)."""

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


class Begin(_Adapting, Transform):
    """Reads what enters a feed-forward part and leaves A(x) for the :class:`End` of it.

    With ``residual`` it leaves A(x) + x, as the module of Feng and Narayanan 2023 returns it.
    """

    where = "input"

    def __init__(self, bottleneck: Bottleneck, handover: Handover, residual: bool):
        super().__init__(bottleneck)
        self.handover = handover
        self.residual = residual

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return the hidden states, [..., d], as they came."""
        added = self.bottleneck(hidden)
        self.handover.left = added + hidden if self.residual else added
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
