"""Factored updates. Symbols are the paper's; U reads the input and V writes the output.

With d the width that all layers share, a layer from a d to b d features is a b matrices of d by d.
What the layers share is a submodule at the first of them only, so that it is counted, stored and
moved once; the others refer to it.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Delta, LayerInfo, trainable_dtype


class Factors(nn.Module):
    """U [r, d], V [d, r] and, for Tucker, the core C [r, r, r]; V starts at zero."""

    def __init__(self, layer: LayerInfo, width: int, rank: int, *, tucker: bool):
        super().__init__()
        self.U = _uniform(layer, 1 / math.sqrt(width), rank, width)
        self.V = _uniform(layer, 0, width, rank)
        self.C = _uniform(layer, math.sqrt(3) / rank, rank, rank, rank) if tucker else None


class Factored(Delta):
    """s V (Sigma (U x)), where U and V are applied to each part of d features."""

    def __init__(
        self, layer: LayerInfo, factors: Factors, *, owns: bool, scale: float, dropout: float
    ):
        super().__init__()
        self.referred = (factors,)
        if owns:
            self.factors = factors
        self.scale = scale
        self.dropout = dropout
        self.rank, width = factors.U.shape
        self.parts_in, self.parts_out = layer.in_features // width, layer.out_features // width

    def sigma(self, core: Tensor | None) -> Tensor:
        """Return Sigma of all parts, [b r, a r]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return the update, [..., b d], of activations [..., a d]."""
        U, V, sigma = self._factors()
        read = F.linear(x.unflatten(-1, (self.parts_in, -1)), U).flatten(-2)
        inner = F.linear(read, sigma) * self.scale
        if self.dropout:
            inner = F.dropout(inner, self.dropout, self.training)
        return F.linear(inner.unflatten(-1, (self.parts_out, -1)), V).flatten(-2)

    def weight_delta(self) -> Tensor:
        """Return s V Sigma U of all parts, [b d, a d]."""
        U, V, sigma = self._factors()
        blocks = sigma.view(self.parts_out, self.rank, self.parts_in, self.rank) * self.scale
        rows = torch.einsum("or,bras->boas", V, blocks)
        return (rows @ U).flatten(2).flatten(0, 1)

    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        shared: Any = self.referred[0]
        own = next(iter(self._parameters.values()))
        assert own is not None
        core = None if shared.C is None else shared.C.to(own.device)
        return shared.U.to(own.device), shared.V.to(own.device), self.sigma(core)


class TensorTrain(Factored):
    """Sigma is trained whole, r by r for each part (Jie & Deng 2023, FacT-TT)."""

    def __init__(self, layer: LayerInfo, factors: Factors, **options: Any):
        super().__init__(layer, factors, **options)
        reads = self.parts_in * self.rank
        self.S = _uniform(layer, 1 / math.sqrt(reads), self.parts_out * self.rank, reads)

    def sigma(self, core: Tensor | None) -> Tensor:
        """Return Sigma, [b r, a r]."""
        return self.S


class Tucker(Factored):
    """Sigma of part m is the shared core times row m of P, [a b, r] (Jie & Deng 2023, FacT-TK)."""

    def __init__(self, layer: LayerInfo, factors: Factors, *, matrices: int, **options: Any):
        super().__init__(layer, factors, **options)
        limit = math.sqrt(6 / (self.rank + matrices))  # Glorot's, over the rows of all layers
        self.P = _uniform(layer, limit, self.parts_out * self.parts_in, self.rank)

    def sigma(self, core: Tensor | None) -> Tensor:
        """Return Sigma, [b r, a r]."""
        P = self.P.view(self.parts_out, self.parts_in, self.rank)
        return torch.einsum("srk,bak->bras", core, P).flatten(2).flatten(0, 1)


def _uniform(layer: LayerInfo, limit: float, *shape: int) -> nn.Parameter:
    made = torch.empty(shape, dtype=trainable_dtype(layer.dtype), device=layer.device)
    return nn.Parameter(made.uniform_(-limit, limit) if limit else made.zero_())
