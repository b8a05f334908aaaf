"""SparsePEFT: a low-rank update under the mask of the pruned weight, so that it can be merged."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from peftcore import (
    ConfigError, Context, Dropout, MethodConfig, Placed, Rank, Reparam, Site, Targeted, Targets,
    hookimpl,
)  # fmt: skip
from pydantic import Field
from torch import Tensor, nn


class SparsePeftConfig(MethodConfig):
    """Configuration of SparsePEFT."""

    rank: Rank = Field(8, description="Rank r of the update.")
    alpha: float | None = Field(
        None, gt=0, description="The update is scaled by alpha / rank. Not given: a scale of 1."
    )
    sparsity: Dropout = Field(
        0.5, description="Share of the weights of each output that are pruned."
    )
    observe: int = Field(
        8, ge=1, description="Steps of a run whose inputs say which weights matter; then, pruning."
    )
    targets: Targets = Field(
        Targets(roles=("attention.query", "attention.value")), description="Layers to update."
    )


class Sparse(Reparam):
    """W' = M ⊙ (W + s B A): the pruned weight, and an update under the same mask.

    M keeps, in each row of W, the weights with the largest |W_ij| ‖X_j‖ (Sun et al. 2024, eq. 1).
    """

    mask: Tensor
    squares: Tensor

    def __init__(self, site: Site, config: Any):
        super().__init__()
        out, in_ = site.layer.weight_shape
        self.scale = 1.0 if config.alpha is None else config.alpha / config.rank
        self.sparsity = config.sparsity
        self.lora_A = nn.Parameter(torch.zeros(config.rank, in_))
        self.lora_B = nn.Parameter(torch.zeros(out, config.rank))
        self.register_buffer("mask", torch.ones(out, in_, dtype=torch.bool))
        self.register_buffer("squares", torch.zeros(in_), persistent=False)

    def start(self, weight: Any) -> None:
        """Draw A; B is zero."""
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the new weight, [out, in]."""
        return self.mask * (weight + self.scale * self.lora_B @ self.lora_A)

    def precompute(self, weight: Callable[[], Tensor]) -> Tensor:
        """Return the change of the weight."""
        before = weight()
        return self(before.to(self.lora_A.dtype)) - before  # type: ignore[no-any-return]

    def through(
        self, call: Callable[[Tensor], Tensor], x: Tensor, precomputed: Any, bias: Tensor | None,
        context: Context,
    ) -> Tensor:  # fmt: skip
        """Return the output, [..., out], and note how large the inputs of real tokens are."""
        if self.training:
            real = context.mask
            inputs = (
                x[real] if real is not None and real.shape == x.shape[:-1] else x.flatten(0, -2)
            )
            self.squares += inputs.detach().to(self.squares.dtype).square().sum(0)
        return call(x) + F.linear(x, precomputed.to(x.dtype))

    def prune(self, weight: Tensor) -> None:
        """Set M by what was noted; ``weight`` is the base's, [out, in]."""
        score = weight.abs() * self.squares.sqrt()
        pruned = score.topk(int(self.sparsity * score.shape[1]), dim=1, largest=False).indices
        self.mask.fill_(True).scatter_(1, pruned, False)


class SparsePeft(Targeted):
    """SparsePEFT, Munoz et al. 2024, with the first steps of a run in place of a calibration."""

    def piece(self, site: Site, config: Any) -> Sparse:
        """Return the update of a layer."""
        return Sparse(site, config)

    @hookimpl
    def peftcore_before_run(self, placed: Sequence[Placed], steps: int) -> None:
        """Refuse a run that would end without pruning.

        Raises:
            ConfigError: it has no more steps than are observed.
        """
        if steps <= self.config.observe:
            raise ConfigError(
                f"{self.label}.observe: a run of {steps} steps ends before weights are pruned after"
                f" {self.config.observe}. Write observe: {max(1, steps // 10)}, or train longer."
            )

    @hookimpl
    def peftcore_after_step(self, placed: Sequence[Placed], step: int, steps: int) -> None:
        """Prune once enough steps were observed."""
        if step == self.config.observe:
            for item in placed:
                piece: Any = item.piece
                piece.prune(item.site.weight())
