"""The method: which layers share a pair, and what keeps the coefficients sparse."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from peftcore import Placed, Site, Targeted, TargetError, hookimpl
from peftcore_s2lora.pieces import Pair, SharedLowRank


class S2Lora(Targeted):
    """Sparsely shared LoRA, reconstructed from the abstract of Liu et al. 2024."""

    @hookimpl
    def peftcore_prepare(self, sites: Sequence[Site]) -> None:
        """Check the budget against the number of coefficients.

        Raises:
            TargetError: nothing is left for the budget to take away.
        """
        layers = len(self.chosen(sites))
        budget, all_of_them = self.config.budget, layers * self.config.rank
        if budget is not None and budget > all_of_them:
            raise TargetError(
                f"{self.label}.budget: budget {budget} is above {all_of_them}, the number of"
                f" coefficients of {layers} layers at rank {self.config.rank}. Write less."
            )

    def piece(self, site: Site, config: Any) -> SharedLowRank:
        """Return the update of a linear layer."""
        size = sorted((site.layer.in_features, site.layer.out_features))
        pair = self.shared(tuple(size), lambda: Pair(*size, config.rank))
        return SharedLowRank(site.layer, pair, config.scale)

    @hookimpl
    def peftcore_extra_loss(self, placed: Sequence[Placed]) -> Tensor | None:
        """Return the penalty on the coefficients and that on the pairs, where there are any."""
        config, coefficients = self.config, _coefficients(placed)
        device = coefficients[0].device
        terms = []
        if config.sparsity == "l1" and config.beta:
            terms += [config.beta * c.abs().sum().to(device) for c in coefficients]
        if config.gamma:
            pairs = dict.fromkeys(item.piece.pair for item in placed)
            terms += [config.gamma * pair.orthogonality().to(device) for pair in pairs]
        return torch.stack(terms).sum() if terms else None

    @hookimpl
    def peftcore_after_step(self, placed: Sequence[Placed], step: int, steps: int) -> None:
        """Keep the largest coefficients, or take all of them nearer to zero."""
        coefficients = _coefficients(placed)
        if self.config.threshold is not None:
            for c in coefficients:
                c.copy_(torch.nn.functional.softshrink(c, self.config.threshold))
        if self.config.budget is not None:
            count = sum(len(c) for c in coefficients)
            keep_largest(coefficients, scheduled(count, self.config.budget, step / steps))


def scheduled(count: int, budget: int, progress: float) -> int:
    """Return how many of all coefficients to keep: half a cosine from all to the budget."""
    return budget + round((count - budget) * (1 + math.cos(math.pi * min(progress, 1))) / 2)


def keep_largest(coefficients: Sequence[Tensor], number: int) -> None:
    """Set all but that many coefficients to zero, the smallest over all layers, in place.

    It is a hard threshold after each step: what is zeroed here has a gradient still, may grow in
    the next step and is kept then if it is large enough.
    """
    device = coefficients[0].device
    sizes = [len(c) for c in coefficients]
    everything = torch.cat([c.abs().to(device) for c in coefficients])
    kept = torch.zeros_like(everything)
    kept[everything.topk(number).indices] = 1
    for c, mask in zip(coefficients, kept.split(sizes), strict=True):
        c.mul_(mask.to(c))


def _coefficients(placed: Sequence[Placed]) -> list[Any]:
    pieces: list[Any] = [item.piece for item in placed]
    return [piece.coefficients for piece in pieces]
