"""VeRA: the shared random matrices, and the two vectors of each layer."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Delta, LayerInfo, Site, Targeted


class Projection(nn.Module):
    """A frozen random matrix: A [r, in] or B [out, r]; it follows from its seed and its size.

    Matrices of other sizes begin with the same random numbers, scaled to their own size.
    """

    matrix: Tensor

    def __init__(self, kind: str, size: int, rank: int, seed: int):
        super().__init__()
        # made on the CPU in fp32: the same numbers on every machine
        generator = torch.Generator("cpu").manual_seed(2 * seed + (kind == "B"))
        bound = math.sqrt(6 / (size if kind == "A" else rank))  # He et al. 2015, as in their code
        values = torch.empty(size, rank, dtype=torch.float32, device="cpu")
        values.uniform_(-bound, bound, generator=generator)
        drawn = values.T if kind == "A" else values
        self.register_buffer("matrix", torch.empty(drawn.shape).copy_(drawn), persistent=False)


class Scaled(Delta):
    """Update diag(b) B diag(d) A of a linear layer (Kopiczko et al. 2024, eq. 2)."""

    casts_itself = True

    def __init__(
        self, layer: LayerInfo, A: Projection, B: Projection, d_initial: float, dropout: float
    ):
        super().__init__()
        self.dropout = dropout
        self.vera_A = A
        self.vera_B = B
        self.vera_lambda_b = nn.Parameter(torch.zeros(layer.out_features))
        self.vera_lambda_d = nn.Parameter(torch.full((len(A.matrix),), d_initial))

    def forward(self, x: Tensor) -> Tensor:
        """Return the update, [..., out], of activations [..., in]."""
        A, B = self.vera_A.matrix.to(x.dtype), self.vera_B.matrix.to(x.dtype)
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        read = F.linear(x, A) * self.vera_lambda_d.to(x.dtype)
        return F.linear(read, B) * self.vera_lambda_b.to(x.dtype)

    def weight_delta(self) -> Tensor:
        """Return diag(b) B diag(d) A, [out, in]."""
        A, B = self.vera_A.matrix, self.vera_B.matrix
        return (self.vera_lambda_b[:, None] * B) @ (self.vera_lambda_d[:, None] * A)


class Vera(Targeted):
    """Vector-based random matrix adaptation, Kopiczko et al. 2024."""

    def piece(self, site: Site, config: Any) -> Scaled:
        """Return the update of a linear layer."""
        layer = site.layer

        def projection(kind: str, size: int) -> Projection:
            return self.shared(
                (kind, size, layer.device),
                lambda: Projection(kind, size, config.rank, config.projection_seed),
            )

        A, B = projection("A", layer.in_features), projection("B", layer.out_features)
        return Scaled(layer, A, B, config.d_initial, config.dropout)
