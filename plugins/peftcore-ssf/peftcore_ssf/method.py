"""SSF: the scale and shift of a layer's output, and where they go."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from peftcore import (
    Delta,
    LayerInfo,
    Method,
    MethodConfig,
    Piece,
    Reparam,
    Site,
    TargetError,
    hookimpl,
    trainable_dtype,
)
from peftcore_ssf.config import SsfConfig

_STD = 0.02
_CHANNELS_FIRST = nn.modules.batchnorm._NormBase | nn.GroupNorm


class Scale(Reparam):
    """y = gamma * f(x) + beta over the features of a layer f (Lian et al. 2022, eq. 2).

    A change of weight and bias: W' = diag(gamma) W, b' = gamma * b + beta. Without ``shift`` it is
    gamma * f(x), for layers that have no bias to change.
    """

    def __init__(self, layer: LayerInfo, std: float, dims: int | None, *, shift: bool):
        super().__init__()
        self.dims = dims
        self.scale = _normal(layer, 1.0, std)
        self.shift = _normal(layer, 0.0, std) if shift else None

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

    def __init__(self, layer: LayerInfo, std: float, dims: int | None):
        super().__init__()
        self.dims = dims
        self.shift = _normal(layer, 0.0, std)

    def forward(self, x: Tensor) -> Tensor:
        """Return the shift, to be broadcast over the output."""
        return _along(self.shift, self.dims, x)

    def bias_delta(self) -> Tensor:
        """Return the shift, [out]."""
        return self.shift


class Ssf(Method):
    """Scaling and shifting your features, Lian et al. 2022."""

    config: SsfConfig

    def __init__(self, config: MethodConfig):
        super().__init__(config)
        self._whole: set[str] = set()

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Scale | Mapping[str, Piece] | None:
        """Return the scale and shift of a targeted layer.

        Raises:
            TargetError: a module is named that is no linear, convolution or norm.
        """
        if site.role == "head" or site.path in self._whole:
            return None
        if not site.matches(self.config.targets) or not self._serves(site):
            return None
        if site.features is None or site.role.endswith(".qkv"):
            # a fused layer comes before its slices, which it covers
            self._whole.add(site.path)
        std = _STD if self.config.init == "released" else 0.0
        dims = _trailing(site)
        if site.layer.bias:
            return Scale(site.layer, std, dims, shift=True)
        return {
            "scale": Scale(site.layer, std, dims, shift=False),
            "shift": Shift(site.layer, std, dims),
        }

    def _serves(self, site: Site) -> bool:
        kind = site.layer.kind
        if (kind in ("linear", "norm") or kind.startswith("conv")) and site.layer.out_features:
            return True
        if "*" in self.config.targets.roles:
            return False
        raise TargetError(
            f"{self.label}.targets: {site.here} is of kind {kind}; SSF"
            " scales and shifts linears, convolutions and norms. Name the layers inside it, or"
            " leave it out with exclude."
        )


def _normal(layer: LayerInfo, mean: float, std: float) -> nn.Parameter:
    made: dict[str, Any] = {"dtype": trainable_dtype(layer.dtype), "device": layer.device}
    return nn.Parameter(torch.empty(layer.out_features, **made).normal_(mean, std))


def _trailing(site: Site) -> int | None:
    """Return how many dimensions follow the features in a layer's output; None: all but two."""
    if site.layer.kind.startswith("conv"):
        return len(site.layer.weight_shape) - 2
    first = isinstance(site.module, _CHANNELS_FIRST) or type(site.module).__name__.endswith("2d")
    return None if first else 0


def _along(tensor: Tensor, dims: int | None, out: Tensor) -> Tensor:
    """Return a tensor over features, shaped to be broadcast over an output."""
    return tensor.to(out.dtype).view(-1, *(1,) * (out.dim() - 2 if dims is None else dims))
