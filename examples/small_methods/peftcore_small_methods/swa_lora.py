"""LoRA whose factors are averaged over the last steps of a run."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from peftcore import LowRankConfig, LowRankDelta, Placed, Site, Targeted, hookimpl
from pydantic import Field
from torch import Tensor, nn


class SwaLoraConfig(LowRankConfig):
    """Configuration of the update and of its average."""

    start_at: float = Field(
        0.75, ge=0, lt=1, description="Share of the run's steps after which averaging begins."
    )


class Averaged(LowRankDelta):
    """y = base(x) + s B A dropout(x); the means of A and B are stored, so that a run can resume."""

    mean_A: Tensor
    mean_B: Tensor
    count: Tensor

    def __init__(self, site: Site, config: Any):
        super().__init__()
        layer, rank = site.layer, config.rank
        self.dropout, self.scale = config.dropout, config.scale()
        self.lora_A = nn.Parameter(torch.zeros(rank, layer.in_features))
        self.lora_B = nn.Parameter(torch.zeros(layer.out_features, rank))
        self.register_buffer("mean_A", torch.zeros(rank, layer.in_features))
        self.register_buffer("mean_B", torch.zeros(layer.out_features, rank))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def start(self, weight: Any) -> None:
        """Draw A; B is zero."""
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A, [r, in], and s B, [out, r]."""
        return self.lora_A, self.scale * self.lora_B

    def average(self) -> None:
        """Take the factors into their means: w ← (n w + new) / (n + 1) (Algorithm 1)."""
        self.count += 1
        self.mean_A += (self.lora_A - self.mean_A) / self.count
        self.mean_B += (self.lora_B - self.mean_B) / self.count

    def settle(self) -> None:
        """Put the means in place of the factors, and forget them."""
        self.lora_A.copy_(self.mean_A)
        self.lora_B.copy_(self.mean_B)
        for buffer in (self.mean_A, self.mean_B, self.count):
            buffer.zero_()


class SwaLora(Targeted):
    """Stochastic weight averaging, Izmailov et al. 2018, of LoRA's factors (Onal et al. 2024)."""

    def piece(self, site: Site, config: Any) -> Averaged:
        """Return the update of a layer."""
        return Averaged(site, config)

    @hookimpl
    def peftcore_after_step(self, placed: Sequence[Placed], step: int, steps: int) -> None:
        """Take the factors into their means, in the last part of the run."""
        if step > self.config.start_at * steps:
            for item in placed:
                piece: Any = item.piece
                piece.average()

    @hookimpl
    def peftcore_after_run(self, placed: Sequence[Placed]) -> None:
        """Put the means in place of the factors."""
        for item in placed:
            piece: Any = item.piece
            piece.settle()
