"""Router-Tuning: which rows or tokens can go without the attention of a layer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from peftcore import (
    Around, AttachError, Context, MethodConfig, Piece, Placed, Site, Targeted, Targets, hookimpl,
)  # fmt: skip
from pydantic import Field
from torch import Tensor, nn


class RouterTuningConfig(MethodConfig):
    """Configuration of Router-Tuning."""

    level: Literal["sequence", "token"] = Field(
        "sequence", description="Whether whole rows skip the module, or single tokens."
    )
    capacity: float = Field(0.5, ge=0, le=1, description="Share that shall pass, the others skip.")
    weight: float = Field(0.01, ge=0, description="Weight λ of the loss above that share.")
    targets: Targets = Field(
        Targets(roles=("attention",)), description="Modules with a residual connection around them."
    )


class Router(Around):
    """y = 1[σ(w x) ≥ 1/2] · f(x), where the gradient of the step is that of σ.

    x is a token, or the mean over the real tokens of a row. With w = 0 at the start all pass. As
    the authors' code does, it computes f for all and leaves out what skips it.
    """

    def __init__(self, site: Site, level: str):
        super().__init__()
        self.level = level
        if level == "sequence":
            self.needs = ("one-sequence", "mask", "rows-first")
        self.router = nn.Parameter(torch.zeros(1, site.layer.in_features))

    def forward(self, call: Callable[..., Any], *args: Any, context: Context, **kwargs: Any) -> Any:
        """Run the module; its output is the first thing that it returns, [B, L, d].

        Raises:
            AttachError: rows are routed, and a call has only the last of their tokens.
        """
        if context.offset and self.level == "sequence":
            raise AttachError(
                "router_tuning routes a row by the mean of its tokens, of which a call with a cache"
                " has the last alone: generate with use_cache=False, or write level: token."
            )
        x: Tensor = args[0] if args else next(iter(kwargs.values()))
        real = context.mask
        if real is None or real.shape != x.shape[:2]:
            real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        read, counts = x, real[..., None]
        if self.level == "sequence":
            weight = counts.to(x.dtype)
            read = (x * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
            counts = counts.any(1, keepdim=True)
        score = torch.sigmoid(F.linear(read, self.router))
        gate = (score >= 0.5).to(score.dtype) + (score - score.detach())
        if self.training:
            context.keep(self, gate[counts].mean())
        out = call(*args, **kwargs)
        if isinstance(out, Tensor):
            return out * gate.to(out.dtype)
        return type(out)((out[0] * gate.to(out[0].dtype), *out[1:]))


class RouterTuning(Targeted):
    """Router-Tuning with attention of dynamic depth, He et al. 2024."""

    kinds = ("module",)

    def piece(self, site: Site, config: Any) -> Router:
        """Return the router of a module."""
        return Router(site, config.level)

    @hookimpl
    def peftcore_extra_loss(
        self, placed: Sequence[Placed], kept: Mapping[Piece, Sequence[Any]]
    ) -> Tensor | None:
        """Return λ times the sum of what passes above the capacity, over all routers."""
        shares = [share for calls in kept.values() for share in calls]
        if not shares:
            return None
        together = torch.stack([share.to(shares[0].device) for share in shares])
        return self.config.weight * F.relu(together - self.config.capacity).sum()
