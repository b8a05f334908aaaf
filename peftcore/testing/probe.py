"""A method that changes whole weights: it finds places that the model never calls or reads."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from peftcore.method.config import MethodConfig
from peftcore.method.method import Method
from peftcore.method.pieces import Delta, Reparam
from peftcore.model.sites import Site
from peftcore.model.targets import Targets
from peftcore.registry.hookspecs import hookimpl


class ProbeConfig(MethodConfig):
    """Configuration of the probe."""

    targets: Targets = Field(
        Targets.model_validate(["all-linear", "head"]), description="Where to probe."
    )
    through: Literal["output", "weight"] = Field(
        "output", description="Add to the output of linear layers, or run with another weight."
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


class Probe(Method):
    """Puts a change of the whole weight at every targeted layer; a fused layer is probed whole."""

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Whole | Other | None:
        """Return the piece of a layer with a weight to multiply with."""
        if site.layer.kind in ("norm", "module") or not site.matches(self.config.targets):
            return None
        if site.features is not None and not site.role.endswith("qkv"):
            return None
        linear = site.layer.kind == "linear"
        return Whole(site) if linear and self.config.through == "output" else Other(site)
