"""A method that changes whole weights: it finds places that the model never calls or reads."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from peftcore.method.config import MethodConfig
from peftcore.method.method import Method
from peftcore.method.pieces import Delta, Reparam, Transform
from peftcore.model.context import Context
from peftcore.model.sites import Site
from peftcore.model.targets import Targets
from peftcore.registry.hookspecs import hookimpl


class ProbeConfig(MethodConfig):
    """Configuration of the probe."""

    targets: Targets = Field(
        Targets.model_validate(["all-linear", "head"]), description="Where to probe."
    )
    through: Literal["output", "weight", "prompt"] = Field(
        "output",
        description="Add to the output of linear layers, run with another weight, or add to the"
        " prompt's tokens by their places.",
    )


class Whole(Delta):
    """A change of the whole weight of a linear layer, zero at first."""

    def __init__(self, site: Site):
        super().__init__()
        self.change = nn.Parameter(torch.zeros(site.layer.out_features, site.layer.in_features))

    def forward(self, x: Tensor) -> Tensor:
        """Return the summand."""
        return F.linear(x, self.change)

    def weight_delta(self) -> Tensor:
        """Return the change."""
        return self.change


class Other(Reparam):
    """Another weight of any layer that has one, the same at first."""

    def __init__(self, site: Site):
        super().__init__()
        self.change = nn.Parameter(torch.zeros(site.layer.weight_shape))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the new weight."""
        return weight + self.change


class Counting(Transform):
    """Add to each token of a prompt by its place, counted from both ends; zero at first."""

    needs = ("mask", "rows-first")

    def __init__(self, site: Site):
        super().__init__()
        self.change = nn.Parameter(torch.zeros(2, site.layer.out_features))

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return hidden states, [B, L, d], with those of the prompt changed."""
        if context.generated:
            return hidden
        known = context.mask if context.prompt is None else context.prompt
        prompt = hidden.new_ones(hidden.shape[:2]) if known is None else known.to(hidden)
        first = prompt.cumsum(1)
        last = first[:, -1:] + 1 - first
        places = torch.stack([first, last], -1) * prompt[..., None]
        return hidden + places @ self.change / hidden.shape[-1]


class Probe(Method):
    """Puts a change of the whole weight at every targeted layer; a fused layer is probed whole."""

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Whole | Other | Counting | None:
        """Return the piece of a layer with a weight to multiply with, or of what has tokens."""
        if self.config.through == "prompt":
            return Counting(site) if site.matches(self.config.targets) else None
        if site.layer.kind in ("norm", "module") or not site.matches(self.config.targets):
            return None
        if site.features is not None and not site.role.endswith("qkv"):
            return None
        linear = site.layer.kind == "linear"
        return Whole(site) if linear and self.config.through == "output" else Other(site)
