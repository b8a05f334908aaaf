"""Pieces that turn the input of a layer: W' = W Rᵀ, so that y = W (x R) + b."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import LayerInfo, Reparam
from peftcore_oft.rotations import butterfly, cayley, neumann, skew, turn


def _constrained(free: Tensor, eps: float) -> Tensor:
    """Return the values projected onto the ball of COFT; the gradient is that at the projection."""
    norm = math.sqrt(2) * torch.linalg.vector_norm(free.detach(), dim=1, keepdim=True)
    largest = eps / math.sqrt(len(free))
    inside: Tensor = free.detach() * (largest / norm.clamp_min(largest))
    return inside + (free - free.detach())


class Rotated(Reparam):
    """R is block-diagonal, each block the Cayley transform of a skew matrix (Qiu et al. 2023)."""

    def __init__(
        self, layer: LayerInfo, block: int, shared: bool, eps: float | None, terms: int | None
    ):
        super().__init__()
        self.block = block
        self.eps = eps
        self.terms = terms
        blocks = 1 if shared else layer.in_features // block
        self.oft_R = nn.Parameter(torch.zeros(blocks, block * (block - 1) // 2))
        self.register_buffer("upper", torch.triu_indices(block, block, 1), persistent=False)

    def rotation(self) -> Tensor:
        """Return the blocks of R, [blocks, b, b]."""
        free: Tensor = self.oft_R
        if self.eps is not None:
            free = _constrained(free, self.eps)
        matrix = skew(free, self.upper, self.block)  # type: ignore[arg-type]
        return cayley(matrix) if self.terms is None else neumann(matrix, self.terms)

    def forward(self, weight: Tensor) -> Tensor:
        """Return W Rᵀ, [out, in]."""
        return turn(weight, self.rotation().mT)

    def precompute(self, weight: Callable[[], Tensor]) -> Tensor:
        """Return the blocks of R."""
        return self.rotation()

    def through(
        self, call: Callable[[Tensor], Tensor], x: Tensor, precomputed: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Turn the input, [..., in]."""
        return call(turn(x, precomputed.to(x.dtype)))


class Butterfly(Reparam):
    """R is a product of block-diagonal rotations in butterfly order, W' = s ⊙ W Rᵀ.

    Liu et al. 2024, eq. 4: m factors of blocks of width b, and one scale s for each output.
    """

    def __init__(self, layer: LayerInfo, block: int, factors: int):
        super().__init__()
        width = layer.in_features
        self.boft_R = nn.Parameter(torch.zeros(factors, width // block, block, block))
        self.boft_s = nn.Parameter(torch.ones(layer.out_features))
        orders = [butterfly(width, block, i) for i in range(factors)]
        # the permutation of each factor, and its inverse
        self.register_buffer("there", torch.stack(orders), persistent=False)
        self.register_buffer("back", torch.stack(orders).argsort(), persistent=False)

    def rotations(self) -> Tensor:
        """Return the blocks of all factors, [m, blocks, b, b]."""
        return cayley((self.boft_R - self.boft_R.mT) / 2)

    def _factor(self, x: Tensor, blocks: Tensor, i: int) -> Tensor:
        there, back = self.there, self.back
        if i == 0:  # the first factor is not permuted
            return turn(x, blocks)
        return turn(x[..., back[i]], blocks)[..., there[i]]  # type: ignore[index]

    def forward(self, weight: Tensor) -> Tensor:
        """Return s ⊙ W Rᵀ, [out, in]."""
        for i, blocks in enumerate(self.rotations()):
            weight = self._factor(weight, blocks.mT, i)
        return self.boft_s[:, None] * weight

    def precompute(self, weight: Callable[[], Tensor]) -> Tensor:
        """Return the blocks of all factors."""
        return self.rotations()

    def through(
        self, call: Callable[[Tensor], Tensor], x: Tensor, precomputed: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Turn the input, [..., in], and scale the output without its bias."""
        for i in reversed(range(len(precomputed))):
            x = self._factor(x, precomputed[i].to(x.dtype), i)
        out = call(x)
        scale = self.boft_s.to(out.dtype)
        return out * scale if bias is None else torch.lerp(bias.to(out.dtype), out, scale)


class Reflected(Reparam):
    """W' = W H₁ ... H_r with H_i = I - 2 u_i u_iᵀ / ||u_i||² (Yuan et al. 2024, eq. 4).

    The product is I - U T Uᵀ with a triangular T of r x r, so the chain costs what LoRA costs.
    """

    def __init__(self, layer: LayerInfo, rank: int):
        super().__init__()
        self.hra_u = nn.Parameter(torch.zeros(layer.in_features, rank))

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Draw the reflections in equal pairs: neighbours undo each other."""
        half = nn.init.kaiming_uniform_(torch.empty_like(self.hra_u[:, ::2]), a=math.sqrt(5))
        self.hra_u.copy_(half.repeat_interleave(2, 1))

    def _factors(self) -> tuple[Tensor, Tensor]:
        """Return U with unit columns and U T, both [in, r]."""
        u = F.normalize(self.hra_u.to(torch.promote_types(self.hra_u.dtype, torch.float32)), dim=0)
        # the inverse of T is known (Schreiber and Van Loan 1989)
        inverse = (u.T @ u).triu(1) + torch.eye(u.shape[1], dtype=u.dtype, device=u.device) / 2
        return u, torch.linalg.solve_triangular(inverse, u, upper=True, left=False)

    def forward(self, weight: Tensor) -> Tensor:
        """Return W H₁ ... H_r, [out, in]."""
        u, ut = self._factors()
        return weight - (weight.to(u.dtype) @ ut) @ u.T

    def precompute(self, weight: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """Return the two factors of the chain."""
        return self._factors()

    def through(
        self, call: Callable[[Tensor], Tensor], x: Tensor, precomputed: Any, bias: Tensor | None
    ) -> Tensor:
        """Reflect the input, [..., in]."""
        u, ut = (factor.to(x.dtype) for factor in precomputed)
        return call(x - (x @ u) @ ut.T)
