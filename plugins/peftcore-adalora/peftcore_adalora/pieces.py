"""The update of one layer, and what training knows of its importance."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from peftcore import LayerInfo, LowRankDelta

#: Names of the trained tensors: Q, the singular values, P.
TENSORS = ("lora_A", "lora_E", "lora_B")


class Svd(LowRankDelta):
    """Update s P Λ Q of a linear layer (Zhang et al. 2023, section 3.1).

    As in the authors' code Q is ``lora_A``, [r, in], the diagonal of Λ ``lora_E``, [r, 1], and P
    ``lora_B``, [out, r]. Row i of Q, value i and column i of P are triplet i. The buffers serve
    training alone and are not stored with the adapter: smoothed sensitivity and uncertainty of each
    tensor, and ``kept``, [r, 1], the triplets that the last allocation left.
    """

    kept: Tensor

    def __init__(self, layer: LayerInfo, config: Any):
        super().__init__()
        rank, self.dropout = config.init_r, config.dropout
        self.scale = (config.alpha or rank) / rank
        self.lora_A = nn.Parameter(torch.zeros(rank, layer.in_features))
        self.lora_E = nn.Parameter(torch.zeros(rank, 1))
        self.lora_B = nn.Parameter(torch.zeros(layer.out_features, rank))
        for name in TENSORS:
            averages = torch.zeros(2, *getattr(self, name).shape)
            self.register_buffer(f"averages_{name}", averages, persistent=False)
        self.register_buffer("kept", torch.ones(rank, 1, dtype=torch.bool), persistent=False)

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Draw P and Q; the values stay zero."""
        nn.init.normal_(self.lora_A, std=0.02)
        nn.init.normal_(self.lora_B, std=0.02)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return Q, [r, in], and s P Λ, [out, r]."""
        return self.lora_A, self.lora_B * (self.lora_E[:, 0] * self.scale)

    def penalties(self) -> list[Tensor]:
        """Return ‖Q Qᵀ - I‖ and ‖Pᵀ P - I‖, Frobenius norms."""
        Q, P = self.lora_A, self.lora_B
        unit = torch.eye(len(Q), dtype=Q.dtype, device=Q.device)
        return [torch.linalg.matrix_norm(Q @ Q.T - unit), torch.linalg.matrix_norm(P.T @ P - unit)]

    def observe(self, beta1: float, beta2: float) -> None:
        """Smooth the sensitivity |w · ∇w| of each entry, and its uncertainty (section 3.2)."""
        for name in TENSORS:
            parameter = getattr(self, name)
            mean, spread = self.get_buffer(f"averages_{name}")
            # a layer that had no part in the step has no gradient
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            # under fp16 a step whose gradients are not finite is skipped, and must not stay
            now = (parameter * grad).abs().nan_to_num_(0, 0)
            mean.lerp_(now, 1 - beta1)
            spread.lerp_((now - mean).abs(), 1 - beta2)

    def importance(self) -> Tensor:
        """Return the importance of each triplet, [r]: of its value, and means of its vectors."""
        of_A, of_E, of_B = (self.get_buffer(f"averages_{name}").prod(0) for name in TENSORS)
        return of_E.view(-1) + of_A.mean(1) + of_B.mean(0)
