"""IA3: which vectors are scaled, and by what."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from peftcore import Method, Reparam, Site, hookimpl, trainable_dtype
from peftcore_ia3.config import Ia3Config


class _Scale(Reparam):
    """A learned vector l, of ones at the start."""

    def __init__(self, site: Site, width: int):
        super().__init__()
        dtype = trainable_dtype(site.layer.dtype)
        self.ia3_l = nn.Parameter(torch.ones(width, dtype=dtype, device=site.layer.device))


class ScaledOutput(_Scale):
    """y = l ⊙ (W x + b): keys and values (Liu et al. 2022, section 3.3)."""

    def forward(self, weight: Tensor) -> Tensor:
        """Return l ⊙ W by rows, [out, in]."""
        return self.ia3_l[:, None] * weight

    def new_bias(self, bias: Tensor) -> Tensor:
        """Return l ⊙ b, [out]."""
        return self.ia3_l * bias

    def through(
        self, call: Callable[[Tensor], Tensor], x: Tensor, precomputed: Any, bias: Tensor | None
    ) -> Tensor:
        """Scale the output, [..., out]."""
        out = call(x)
        return out * self.ia3_l.to(out.dtype)


class ScaledInput(_Scale):
    """y = W (l ⊙ x) + b: the inner activations of the feed-forward part."""

    def forward(self, weight: Tensor) -> Tensor:
        """Return W ⊙ l by columns, [out, in]."""
        return weight * self.ia3_l

    def through(
        self, call: Callable[[Tensor], Tensor], x: Tensor, precomputed: Any, bias: Tensor | None
    ) -> Tensor:
        """Scale the input, [..., in]."""
        return call(x * self.ia3_l.to(x.dtype))


class Ia3(Method):
    """Infused adapter by inhibiting and amplifying inner activations, Liu et al. 2022."""

    config: Ia3Config

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> _Scale | None:
        """Return the scale of a targeted layer.

        Raises:
            TargetError: the layer is no linear one.
        """
        if not site.matches(self.config.targets):
            return None
        self.check_linear(site, "IA3 scales the outputs and inputs of linear layers")
        if self.config.feedforward is not None and site.matches(self.config.feedforward):
            return ScaledInput(site, site.layer.in_features)
        return ScaledOutput(site, site.layer.out_features)
