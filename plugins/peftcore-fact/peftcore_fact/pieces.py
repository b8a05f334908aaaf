"""Factored updates. Symbols are the paper's; U reads the input and V writes the output.

With d the width that all layers share, a layer from a d to b d features is a b matrices of d by d.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Delta, LayerInfo


class Factors(nn.Module):
    """U [r, d], V [d, r] and, for Tucker, the core C [r, r, r]; V starts at zero."""

    def __init__(self, width: int, rank: int, *, tucker: bool):
        super().__init__()
        self.U = _uniform(1 / math.sqrt(width), rank, width)
        self.V = nn.Parameter(torch.zeros(width, rank))
        self.C = _uniform(math.sqrt(3) / rank, rank, rank, rank) if tucker else None


class Factored(Delta):
    """s V (Sigma (U x)), where U and V are applied to each part of d features."""

    def __init__(self, layer: LayerInfo, factors: Factors, scale: float, dropout: float):
        super().__init__()
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
        shared = self.factors
        device = next(iter(self._parameters.values())).device  # type: ignore[union-attr]
        core = None if shared.C is None else shared.C.to(device)
        return shared.U.to(device), shared.V.to(device), self.sigma(core)


class TensorTrain(Factored):
    """Sigma is trained whole, r by r for each part (Jie & Deng 2023, FacT-TT)."""

    def __init__(self, layer: LayerInfo, factors: Factors, scale: float, dropout: float):
        super().__init__(layer, factors, scale, dropout)
        reads = self.parts_in * self.rank
        self.S = nn.Parameter(torch.zeros(self.parts_out * self.rank, reads))

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Draw Sigma."""
        limit = 1 / math.sqrt(self.S.shape[1])
        self.S.uniform_(-limit, limit)

    def sigma(self, core: Tensor | None) -> Tensor:
        """Return Sigma, [b r, a r]."""
        return self.S


class Tucker(Factored):
    """Sigma of part m is the shared core times row m of P, [a b, r] (Jie & Deng 2023, FacT-TK)."""

    def __init__(
        self, layer: LayerInfo, factors: Factors, scale: float, dropout: float, matrices: int
    ):
        super().__init__(layer, factors, scale, dropout)
        self.limit = math.sqrt(6 / (self.rank + matrices))  # Glorot's, over the rows of all layers
        self.P = nn.Parameter(torch.zeros(self.parts_out * self.parts_in, self.rank))

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Draw P."""
        self.P.uniform_(-self.limit, self.limit)

    def sigma(self, core: Tensor | None) -> Tensor:
        """Return Sigma, [b r, a r]."""
        P = self.P.view(self.parts_out, self.parts_in, self.rank)
        return torch.einsum("srk,bak->bras", core, P).flatten(2).flatten(0, 1)


def _uniform(limit: float, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).uniform_(-limit, limit))
