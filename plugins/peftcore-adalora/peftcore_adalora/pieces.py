"""The update of one layer, and what training knows of its importance."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Delta, LayerInfo

#: Names of the trained tensors: Q, the singular values, P.
TENSORS = ("lora_A", "lora_E", "lora_B")


class Svd(Delta):
    """Update s P Λ Q of a linear layer (Zhang et al. 2023, section 3.1).

    As in the authors' code Q is ``lora_A``, [r, in], the diagonal of Λ ``lora_E``, [r, 1], and P
    ``lora_B``, [out, r]. Row i of Q, value i and column i of P are triplet i. The buffers serve
    training alone and are not stored with the adapter: smoothed sensitivity and uncertainty of each
    tensor, and ``kept``, [r, 1], the triplets that the last allocation left.
    """

    casts_itself = True
    kept: Tensor

    def __init__(self, layer: LayerInfo, rank: int, scale: float, dropout: float):
        super().__init__()
        self.scale = scale
        self.dropout = dropout
        self.lora_A = nn.Parameter(torch.zeros(rank, layer.in_features))
        self.lora_E = nn.Parameter(torch.zeros(rank, 1))
        self.lora_B = nn.Parameter(torch.zeros(layer.out_features, rank))
        for name in TENSORS:
            shape = getattr(self, name).shape
            self.register_buffer(f"sensitivity_{name}", torch.zeros(shape), persistent=False)
            self.register_buffer(f"uncertainty_{name}", torch.zeros(shape), persistent=False)
        kept = torch.ones(rank, 1, dtype=torch.bool)
        self.register_buffer("kept", kept, persistent=False)

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Draw P and Q; the values stay zero."""
        nn.init.normal_(self.lora_A, std=0.02)
        nn.init.normal_(self.lora_B, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return the update, [..., out], of activations [..., in]."""
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        # scaled where the tensor is smallest
        read = F.linear(x, self.lora_A.to(x.dtype)) * self._values().to(x.dtype)
        return F.linear(read, self.lora_B.to(x.dtype))

    def weight_delta(self) -> Tensor:
        """Return s P Λ Q, [out, in]."""
        return (self.lora_B * self._values()) @ self.lora_A

    def penalties(self) -> list[Tensor]:
        """Return ‖Q Qᵀ - I‖ and ‖Pᵀ P - I‖, Frobenius norms."""
        Q, P = self.lora_A, self.lora_B
        unit = torch.eye(len(Q), dtype=Q.dtype, device=Q.device)
        return [torch.linalg.matrix_norm(Q @ Q.T - unit), torch.linalg.matrix_norm(P.T @ P - unit)]

    def observe(self, beta1: float, beta2: float) -> None:
        """Smooth the sensitivity |w · ∇w| of each entry, and its uncertainty (section 3.2)."""
        for name in TENSORS:
            parameter = getattr(self, name)
            mean, spread = self._averages(name)
            if parameter.grad is None:  # the layer had no part in this step
                now = torch.zeros_like(mean)
            else:
                # under fp16 a step whose gradients are not finite is skipped, and must not stay
                now = (parameter * parameter.grad).abs().nan_to_num_(0, 0)
            mean.lerp_(now, 1 - beta1)
            spread.lerp_((now - mean).abs(), 1 - beta2)

    def importance(self) -> Tensor:
        """Return the importance of each triplet, [r]: of its value, and means of its vectors."""
        of_A, of_E, of_B = (torch.mul(*self._averages(name)) for name in TENSORS)
        return of_E.view(-1) + of_A.mean(1) + of_B.mean(0)

    def prune(self) -> None:
        """Set the singular values that are not kept to zero."""
        self.lora_E.masked_fill_(~self.kept, 0)

    def _values(self) -> Tensor:
        values = self.lora_E.view(-1)
        return values if self.scale == 1 else values * self.scale

    def _averages(self, name: str) -> tuple[Tensor, Tensor]:
        return getattr(self, f"sensitivity_{name}"), getattr(self, f"uncertainty_{name}")
