"""SSF: the scale and shift of a layer's output, and where they go."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from peftcore import Delta, Piece, Reparam, Site, Targeted, hookimpl

_CHANNELS_FIRST = nn.modules.batchnorm._NormBase | nn.GroupNorm


class Scale(Reparam):
    """y = gamma * f(x) + beta over the features of a layer f (Lian et al. 2022, eq. 2).

    A change of weight and bias: W' = diag(gamma) W, b' = gamma * b + beta. Without ``shift`` it is
    gamma * f(x), for layers that have no bias to change.
    """

    def __init__(self, width: int, std: float, dims: int | None, *, shift: bool):
        super().__init__()
        self.std, self.dims = std, dims
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width)) if shift else None

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Draw the scale around one and the shift around zero."""
        self.scale.normal_(1.0, self.std)
        if self.shift is not None:
            self.shift.normal_(0.0, self.std)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the scaled rows of the weight, [out, in, ...]."""
        return weight * self.scale.view(-1, *(1,) * (weight.dim() - 1))

    def new_bias(self, bias: Tensor) -> Tensor:
        """Return the new bias, [out]."""
        scaled = bias * self.scale
        return scaled if self.shift is None else scaled + self.shift

    def through(
        self, call: Callable[[Tensor], Tensor], x: Tensor, precomputed: Any, bias: Tensor | None
    ) -> Tensor:
        """Return the scaled and shifted output of the layer."""
        out = call(x)
        scaled = out * _along(self.scale, self.dims, out)
        return scaled if self.shift is None else scaled + _along(self.shift, self.dims, out)


class Shift(Delta):
    """The shift beta of a layer without a bias."""

    casts_itself = True

    def __init__(self, width: int, std: float, dims: int | None):
        super().__init__()
        self.std, self.dims = std, dims
        self.shift = nn.Parameter(torch.zeros(width))

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Draw the shift around zero."""
        self.shift.normal_(0.0, self.std)

    def forward(self, x: Tensor) -> Tensor:
        """Return the shift, to be broadcast over the output."""
        return _along(self.shift, self.dims, x)

    def bias_delta(self) -> Tensor:
        """Return the shift, [out]."""
        return self.shift


class Ssf(Targeted):
    """Scaling and shifting your features, Lian et al. 2022."""

    kinds = ("linear", "conv", "norm")
    needs_width = True

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Piece | Mapping[str, Piece] | None:
        """Return the scale and shift of a targeted layer; ``*`` stands for those that have them.

        Raises:
            TargetError: a module is named that is no linear, convolution or norm.
        """
        known = site.layer.out_features and site.layer.kind.startswith(self.kinds)
        if site.role == "head" or ("*" in self.config.targets.roles and not known):
            return None
        return super().peftcore_rewrite_module(site)

    def piece(self, site: Site, config: Any) -> Scale | Mapping[str, Piece]:
        """Return the scale and shift of a layer."""
        width, dims = site.layer.out_features, _trailing(site)
        std = 0.02 if config.init == "released" else 0.0
        if site.layer.bias:
            return Scale(width, std, dims, shift=True)
        return {
            "scale": Scale(width, std, dims, shift=False),
            "shift": Shift(width, std, dims),
        }


def _trailing(site: Site) -> int | None:
    """Return how many dimensions follow the features in a layer's output; None: all but two."""
    if site.layer.kind.startswith("conv"):
        return len(site.layer.weight_shape) - 2
    first = isinstance(site.module, _CHANNELS_FIRST) or type(site.module).__name__.endswith("2d")
    return None if first else 0


def _along(tensor: Tensor, dims: int | None, out: Tensor) -> Tensor:
    """Return a tensor over features, shaped to be broadcast over an output."""
    return tensor.to(out.dtype).view(-1, *(1,) * (out.dim() - 2 if dims is None else dims))
