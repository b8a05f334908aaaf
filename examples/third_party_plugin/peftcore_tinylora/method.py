"""Tinylora: y = base(x) + x downᵀ upᵀ."""

import torch
from peftcore import Delta, LayerInfo, MethodConfig, Site, Targeted, Targets
from pydantic import Field
from torch import Tensor, nn


class TinyloraConfig(MethodConfig):
    rank: int = Field(8, ge=1, description="Rank of the update.")
    targets: Targets = Field(
        ["attention.query", "attention.value"], description="Linear layers to update."
    )


class LowRank(Delta):
    def __init__(self, layer: LayerInfo, rank: int):
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, layer.in_features) / layer.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.down.T @ self.up.T

    def weight_delta(self) -> Tensor:
        return self.up @ self.down


class Tinylora(Targeted):
    kinds = ("linear",)

    def piece(self, site: Site, config: TinyloraConfig) -> LowRank:
        return LowRank(site.layer, config.rank)
