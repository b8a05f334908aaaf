"""Spectral shifts. Symbols are the paper's: W = U diag(sigma) V^T, delta the shifts."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Delta, Reparam, Site

#: Gives the weight of a layer as it stands.
Weight = Callable[[], Tensor]


class Spectral(Reparam):
    """W' = U diag(ReLU(sigma + s delta)) V^T, the kernel of W flattened (Han et al. 2023).

    It is computed as W plus the change of the singular values, so that it starts exactly as W. The
    decomposition is made once, of the base's weight as bf16 has it (in double precision, as it is):
    only delta is stored, and must mean the same on a base that is loaded in another dtype.
    """

    U: Tensor
    sigma: Tensor
    Vh: Tensor

    def __init__(self, site: Site, scale: float):
        super().__init__()
        self.scale = scale
        U, sigma, Vh = _decomposed(site)
        for name, tensor in (("U", U), ("sigma", sigma), ("Vh", Vh)):
            self.register_buffer(name, tensor, persistent=False)
        self.delta = nn.Parameter(torch.zeros(len(sigma)))

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
        self.shift = nn.Parameter(torch.zeros(site.layer.out_features)) if shift else None

    def new_bias(self, bias: Tensor) -> Tensor:
        """Return the shifted bias, [out]."""
        return bias if self.shift is None else bias + self.shift

    def precompute(self, weight: Weight) -> Weight:
        """Return what gives the weight: only a large batch needs it."""
        return weight

    def through(
        self, call: Callable[[Tensor], Tensor], x: Tensor, precomputed: Weight, bias: Tensor | None
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
        self.shift = nn.Parameter(torch.zeros(site.layer.out_features))

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
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(width))

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


def _decomposed(site: Site) -> tuple[Tensor, Tensor, Tensor]:
    """Return U [out, rank], sigma [rank] and V^T [rank, in ...] of the weight of a site."""
    rows, columns = site.layer.out_features, math.prod(site.layer.weight_shape[1:])
    rank = min(rows, columns)
    if site.layer.device.type == "meta":
        return torch.empty(rows, rank), torch.empty(rank), torch.empty(rank, columns)
    weight = site.weight().flatten(1)
    if weight.dtype != torch.double:
        weight = weight.to(torch.bfloat16).to(torch.float32)
    return torch.linalg.svd(weight, full_matrices=False)
