"""Spectral shifts. Symbols are the paper's: W = U diag(sigma) V^T, delta the shifts."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Delta, LayerInfo, Reparam, Site, trainable_dtype


class Spectral(Reparam):
    """W' = U diag(ReLU(sigma + s delta)) V^T, the kernel of W flattened (Han et al. 2023).

    It is computed as W plus the change of the singular values, so that it starts exactly as W. The
    decomposition is that of the base's weight, made once; only delta is stored.
    """

    U: Tensor
    sigma: Tensor
    Vh: Tensor

    def __init__(self, site: Site, scale: float):
        super().__init__()
        layer = site.layer
        self.scale = scale
        rows, columns = layer.out_features, math.prod(layer.weight_shape[1:])
        rank = min(rows, columns)
        if layer.device.type == "meta":
            U, sigma, Vh = (
                _zeros(layer, rows, rank),
                _zeros(layer, rank),
                _zeros(layer, rank, columns),
            )
        else:
            weight = site.weight().to(trainable_dtype(layer.dtype)).flatten(1)
            U, sigma, Vh = torch.linalg.svd(weight, full_matrices=False)
        for name, tensor in (("U", U), ("sigma", sigma), ("Vh", Vh)):
            self.register_buffer(name, tensor, persistent=False)
        self.delta = nn.Parameter(_zeros(layer, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the new weight, [out, in, ...]."""
        return weight + ((self.U * self._change()) @ self.Vh).view_as(weight)

    def _change(self) -> Tensor:
        """Return ReLU(sigma + s delta) - sigma, [rank]."""
        return F.relu(self.sigma + self.scale * self.delta) - self.sigma


class SpectralLinear(Spectral):
    """The same for a linear layer, with a shift of its bias where one is asked for."""

    def __init__(self, site: Site, scale: float, *, shift: bool):
        super().__init__(site, scale)
        self.shift = nn.Parameter(_zeros(site.layer, site.layer.out_features)) if shift else None

    def new_bias(self, bias: Tensor) -> Tensor:
        """Return the shifted bias, [out]."""
        return bias if self.shift is None else bias + self.shift

    def precompute(self, weight: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Return what gives the weight: only a large batch needs it."""
        return weight

    def through(
        self,
        call: Callable[[Tensor], Tensor],
        x: Tensor,
        precomputed: Callable[[], Tensor],
        bias: Tensor | None,
    ) -> Tensor:
        """Return the output with the new weight, [..., out], for x [..., in]."""
        # the factors cost each input one more layer, a new weight costs as much as rank inputs
        if x.numel() // x.shape[-1] > len(self.delta):
            same = None if bias is None else bias.to(x.dtype)
            out = F.linear(x, self(precomputed()).to(x.dtype), same)
        else:
            read = F.linear(x, self.Vh.to(x.dtype)) * self._change().to(x.dtype)
            out = call(x) + F.linear(read, self.U.to(x.dtype))
        return out if self.shift is None else out + self.shift.to(out.dtype)


class ShiftedBias(Delta):
    """A shift of the bias of a convolution."""

    def __init__(self, site: Site):
        super().__init__()
        self.dims = len(site.layer.weight_shape) - 2
        self.shift = nn.Parameter(_zeros(site.layer, site.layer.out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Return the shift, to be broadcast over the output."""
        return self.shift.view(-1, *(1,) * self.dims)

    def bias_delta(self) -> Tensor:
        """Return the shift, [out]."""
        return self.shift


class ShiftedNorm(Delta):
    """A shift of the weight and bias of a LayerNorm or GroupNorm, added to its output."""

    def __init__(self, site: Site):
        super().__init__()
        norm, width = site.module, site.layer.out_features
        assert isinstance(norm, nn.LayerNorm | nn.GroupNorm)
        self.groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else 0
        self.eps = norm.eps
        self.weight = nn.Parameter(_zeros(site.layer, width))
        self.bias = nn.Parameter(_zeros(site.layer, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return what the shifts add to the norm's output, shaped as x."""
        if self.groups:
            return F.group_norm(x, self.groups, self.weight, self.bias, self.eps)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)

    def weight_delta(self) -> Tensor:
        """Return the shift of the weight, [d]."""
        return self.weight

    def bias_delta(self) -> Tensor:
        """Return the shift of the bias, [d]."""
        return self.bias


def _zeros(layer: LayerInfo, *shape: int) -> Tensor:
    return torch.zeros(shape, dtype=trainable_dtype(layer.dtype), device=layer.device)
