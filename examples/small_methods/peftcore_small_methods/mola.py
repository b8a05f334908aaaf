"""MoLA: several low-rank experts at a layer, among which a router chooses for each token."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from peftcore import (
    Context, Delta, LowRankConfig, PerRole, Piece, Placed, Site, Targeted, hookimpl,
)  # fmt: skip
from pydantic import Field, model_validator
from torch import Tensor, nn


class MolaConfig(LowRankConfig):
    """Configuration of MoLA; the paper gives the layers unequal numbers of experts."""

    experts: PerRole[Annotated[int, Field(ge=1)]] = Field(
        4, description="Number N of experts; of some layers alone with `path:`."
    )
    top_k: int = Field(2, ge=1, description="Number K of experts that serve a token.")
    balance: float = Field(0.001, ge=0, description="Weight of the loss that balances the experts.")

    @model_validator(mode="after")
    def _as_many_as_there_are(self) -> "MolaConfig":
        least = min(self.experts.values()) if isinstance(self.experts, dict) else self.experts
        if self.top_k > least:
            raise ValueError(f"top_k {self.top_k} of {least} experts; write top_k: {least} or less")
        return self


class Experts(Delta):
    """y = base(x) + s Σ_i g_i(x) B_i A_i x over the K experts with the largest p_i.

    p = softmax(R x); g is p over the chosen experts, divided by its sum, as in the authors' code.
    """

    def __init__(self, site: Site, config: Any):
        super().__init__()
        experts, rank, layer = config.experts, config.rank, site.layer
        self.top_k, self.dropout, self.scale = config.top_k, config.dropout, config.scale()
        self.router = nn.Parameter(torch.zeros(experts, layer.in_features))
        self.lora_A = nn.Parameter(torch.zeros(experts, rank, layer.in_features))
        self.lora_B = nn.Parameter(torch.zeros(layer.out_features, experts, rank))

    def start(self, weight: Any) -> None:
        """Draw the router and A; B is zero."""
        for tensor in (self.router, *self.lora_A):
            nn.init.kaiming_uniform_(tensor, a=math.sqrt(5))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Return the update, [..., out], and keep what the router said of real tokens."""
        p = F.softmax(F.linear(x, self.router), dim=-1, dtype=self.router.dtype)
        top, chosen = p.topk(self.top_k, dim=-1)
        gates = torch.zeros_like(p).scatter(-1, chosen, top / top.sum(-1, keepdim=True))
        if self.training:
            real = context.mask
            if real is None or real.shape != x.shape[:-1]:
                real = torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
            context.keep(self, (p[real], chosen[real]))
        x = F.dropout(x, self.dropout, self.training)
        inner = F.linear(x, self.lora_A.flatten(0, 1)).unflatten(-1, self.lora_A.shape[:2])
        weighted = (inner * gates[..., None]).flatten(-2)
        return F.linear(weighted, self.lora_B.flatten(1)) * self.scale


class Mola(Targeted):
    """Mixture of LoRA experts with layer-wise allocation, Gao et al. 2024."""

    def piece(self, site: Site, config: Any) -> Experts:
        """Return the experts of a layer."""
        return Experts(site, config)

    @hookimpl
    def peftcore_extra_loss(
        self, placed: Sequence[Placed], kept: Mapping[Piece, Sequence[Any]]
    ) -> Tensor | None:
        """Return the sum of the balancing losses of all routers."""
        losses = [unbalanced(p, chosen) for calls in kept.values() for p, chosen in calls]
        if not losses or not self.config.balance:
            return None
        together = torch.stack([loss.to(losses[0].device) for loss in losses])
        return self.config.balance * together.sum()


def unbalanced(p: Tensor, chosen: Tensor) -> Tensor:
    """Return N Σ_i f_i P_i (Fedus et al. 2022, eq. 4 to 6), 1 where all experts serve alike.

    Args:
        p: [T, N] what the router gave each token, of which P_i is the mean.
        chosen: [T, K] experts that served it; f_i is the share of expert i among these.
    """
    count = p.shape[-1]
    f = F.one_hot(chosen, count).flatten(0, -2).to(p.dtype).mean(0)
    return count * (f * p.mean(0)).sum()
