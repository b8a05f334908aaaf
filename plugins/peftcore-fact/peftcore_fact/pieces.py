"""Factored updates. Symbols are the paper's; U reads the input and V writes the output.

With d the width that all layers share, a layer from a d to b d features is a b matrices of d by d.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Delta, LayerInfo


class Factors(nn.Module):
    """U [r, d], V [d, r] and, for Tucker, the core C [r, r, r]; V starts at zero.

    Attributes:
        matrices: how many d by d matrices they serve.
    """

    def __init__(self, width: int, rank: int, matrices: int, *, tucker: bool):
        super().__init__()
        self.matrices = matrices
        self.U = _uniform(1 / math.sqrt(width), rank, width)
        self.V = nn.Parameter(torch.zeros(width, rank))
        self.C = _uniform(math.sqrt(3) / rank, rank, rank, rank) if tucker else None


class Factored(Delta):
    """s V (Sigma (U x)), where U and V are applied to each part of d features."""

    def __init__(self, layer: LayerInfo, factors: Factors, config: Any):
        super().__init__()
        self.factors = factors
        self.scale, self.dropout = config.scale, config.dropout
        self.rank, width = factors.U.shape
        self.parts_in, self.parts_out = layer.in_features // width, layer.out_features // width

    def sigma(self) -> Tensor:
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
        sigma = self.sigma()
        # of a model on several devices the other layers may be elsewhere
        return self.factors.U.to(sigma.device), self.factors.V.to(sigma.device), sigma


class TensorTrain(Factored):
    """Sigma is trained whole, r by r for each part (Jie & Deng 2023, FacT-TT)."""

    def __init__(self, layer: LayerInfo, factors: Factors, config: Any):
        super().__init__(layer, factors, config)
        reads = self.parts_in * self.rank
        self.S = nn.Parameter(torch.zeros(self.parts_out * self.rank, reads))

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Draw Sigma."""
        limit = 1 / math.sqrt(self.S.shape[1])
        self.S.uniform_(-limit, limit)

    def sigma(self) -> Tensor:
        """Return Sigma, [b r, a r]."""
        return self.S


class Tucker(Factored):
    """Sigma of part m is the shared core times row m of P, [a b, r] (Jie & Deng 2023, FacT-TK)."""

    def __init__(self, layer: LayerInfo, factors: Factors, config: Any):
        super().__init__(layer, factors, config)
        self.P = nn.Parameter(torch.zeros(self.parts_out * self.parts_in, self.rank))

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Draw P, within Glorot's limit over the rows of all layers."""
        limit = math.sqrt(6 / (self.rank + self.factors.matrices))
        self.P.uniform_(-limit, limit)

    def sigma(self) -> Tensor:
        """Return Sigma, [b r, a r]."""
        assert self.factors.C is not None
        core = self.factors.C.to(self.P.device)
        P = self.P.view(self.parts_out, self.parts_in, self.rank)
        return torch.einsum("srk,bak->bras", core, P).flatten(2).flatten(0, 1)


def _uniform(limit: float, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).uniform_(-limit, limit))
