"""DiffFit: the scale of a branch, where it goes, and what else trains."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peftcore import LayerInfo, ParameterInfo, Reparam, Site, Targeted, hookimpl


class Gamma(Reparam):
    """gamma f(x), f the last layer of a branch: x + gamma Attn(x), x + gamma FFN(x)."""

    def __init__(self, layer: LayerInfo, *, per_feature: bool):
        super().__init__()
        self.following = max(len(layer.weight_shape) - 2, 0)
        self.gamma = nn.Parameter(torch.ones(layer.out_features if per_feature else 1))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the scaled weight, [out, in, ...]."""
        return weight * self.gamma.view(-1, *(1,) * (weight.dim() - 1))

    def new_bias(self, bias: Tensor) -> Tensor:
        """Return the scaled bias, [out]."""
        return bias * self.gamma

    def through(
        self, call: Callable[[Tensor], Tensor], x: Tensor, precomputed: Any, bias: Tensor | None
    ) -> Tensor:
        """Return the scaled output of the layer; a convolution's features come before its grid."""
        out = call(x)
        return out * self.gamma.to(out.dtype).view(-1, *(1,) * self.following)


class DiffFit(Targeted):
    """DiffFit, Xie et al. 2023, for any model with residual branches."""

    kinds = ("linear", "conv")

    def piece(self, site: Site, config: Any) -> Gamma:
        """Return the scale of a branch."""
        return Gamma(site.layer, per_feature=config.per_feature)

    @hookimpl
    def peftcore_select_parameters(self, parameters: Sequence[ParameterInfo]) -> list[str]:
        """Return the biases, the norms and what is to train besides."""
        return [p.name for p in parameters if p.role not in ("head", "unused") and self._trains(p)]

    def _trains(self, info: ParameterInfo) -> bool:
        config = self.config
        is_bias = info.leaf == "bias" or info.leaf.endswith("_bias")
        return (
            (config.biases and is_bias)
            or (config.norms and info.kind == "norm")
            or (config.also is not None and info.matches(config.also))
        )
