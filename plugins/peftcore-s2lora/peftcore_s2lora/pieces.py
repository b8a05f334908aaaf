"""The update of one layer, and the pair of matrices that layers of one size share."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Delta, LayerInfo


class Pair(nn.Module):
    """P [larger side, r] and Q [r, smaller side]; random at the start."""

    def __init__(self, smaller: int, larger: int, rank: int):
        super().__init__()
        self.P = nn.Parameter(torch.empty(larger, rank).normal_(0, 0.02))
        self.Q = nn.Parameter(torch.empty(rank, smaller).normal_(0, 0.02))

    def orthogonality(self) -> Tensor:
        """Return ||P^T P - I||^2 + ||Q Q^T - I||^2 (Zhang et al. 2023, AdaLoRA, eq. 4)."""
        eye = torch.eye(len(self.Q), dtype=self.Q.dtype, device=self.Q.device)
        return (self.P.T @ self.P - eye).square().sum() + (self.Q @ self.Q.T - eye).square().sum()


class SharedLowRank(Delta):
    """s P diag(c) Q x; s Q^T diag(c) P^T x where the layer narrows. c, [r], starts at zero."""

    casts_itself = True

    def __init__(self, layer: LayerInfo, pair: Pair, scale: float):
        super().__init__()
        self.pair = pair
        self.scale = scale
        self.narrows = layer.out_features < layer.in_features
        self.coefficients = nn.Parameter(torch.zeros(len(pair.Q)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the update, [..., out], of activations [..., in]."""
        write, coefficients, read = self._factors(x)
        return F.linear(F.linear(x, read) * coefficients, write)

    def weight_delta(self) -> Tensor:
        """Return s P diag(c) Q, [out, in]."""
        write, coefficients, read = self._factors(self.coefficients)
        return (write * coefficients) @ read

    def _factors(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what writes, [out, r], s c, [r], and what reads, [r, in]."""
        P, Q = self.pair.P.to(like), self.pair.Q.to(like)
        coefficients = (self.coefficients * self.scale).to(like)
        return (Q.T, coefficients, P.T) if self.narrows else (P, coefficients, Q)
