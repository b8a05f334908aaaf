"""The update of one layer, and the pair of matrices that layers of one size share."""

import torch
from torch import Tensor, nn

from peftcore import LayerInfo, LowRankDelta


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


class SharedLowRank(LowRankDelta):
    """s P diag(c) Q x; s Q^T diag(c) P^T x where the layer narrows. c, [r], starts at zero."""

    def __init__(self, layer: LayerInfo, pair: Pair, scale: float):
        super().__init__()
        self.pair = pair
        self.scale = scale
        self.narrows = layer.out_features < layer.in_features
        self.coefficients = nn.Parameter(torch.zeros(len(pair.Q)))

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return what reads, [r, in], and s times what writes with its coefficients, [out, r]."""
        # of a model on several devices the pair may be elsewhere
        P, Q = (each.to(self.coefficients.device) for each in (self.pair.P, self.pair.Q))
        down, up = (P.T, Q.T) if self.narrows else (Q, P)
        return down, up * (self.coefficients * self.scale)
