"""R with orthonormal rows, from a free matrix of the same shape."""

import torch
from torch import Tensor, nn

#: R is twice the free matrix where that is orthonormal. So an optimiser step turns R as far as in
#: the authors' Householder parametrisation, and their learning rates carry over.
_PACE = 2.0


class Rotation(nn.Module):
    """R [r, d], R Rᵀ = I, as L⁻¹ A where A is twice the free matrix and L Lᵀ = A Aᵀ.

    This is the thin QR decomposition of Aᵀ with a positive diagonal, so R depends smoothly on A,
    and R = A where A is orthonormal already. Nothing is larger than [r, d].
    """

    def __init__(self, rank: int, width: int):
        super().__init__()
        self.free = nn.Parameter(torch.empty(rank, width))

    def start(self) -> None:
        """Draw R."""
        # there is no decomposition of low precision
        wide = torch.promote_types(self.free.dtype, torch.float32)
        self.put(nn.init.orthogonal_(torch.empty_like(self.free, dtype=wide)))

    def forward(self) -> Tensor:
        """Return R, [r, d], in the dtype of the free matrix."""
        # fp64 costs nothing at this size, and forming A Aᵀ squares the condition of A
        free = self.free.double() * _PACE
        gram = free @ free.mT
        factor = torch.linalg.cholesky_ex(gram).L
        # An R that was stored and loaded is orthonormal up to its own rounding: take it as it is,
        # to the bit. The gradient still goes through the factor.
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        rounding = max(4 * torch.finfo(self.free.dtype).eps, 1e-10)
        is_orthonormal = (gram - eye).abs().max() < rounding
        factor = torch.where(is_orthonormal, eye + (factor - factor.detach()), factor)
        rotation: Tensor = torch.linalg.solve_triangular(factor, free, upper=False)
        return rotation.to(self.free.dtype)

    @torch.no_grad()
    def put(self, rotation: Tensor) -> None:
        """Start from a given R."""
        self.free.copy_(rotation / _PACE)
