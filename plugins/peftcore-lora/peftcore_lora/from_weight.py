"""LoRA that starts from the weight itself: PiSSA and OLoRA.

The papers start A and B at parts A0, B0 of the weight W and train beside W - s B0 A0. Here W stays
as it is, and the update is s (B A - B0 A0), with A0 and B0 kept. As one product of rank 2r,

    B A - B0 A0 = (B - B0) A + B0 (A - A0),

it is exactly zero at the start, and no small change is the difference of two large products.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peftcore import trainable_dtype
from peftcore_lora.pieces import Factored, LowRank, LowRankConv


class FromWeight(Factored):
    """The update s (B A - B0 A0); dropout is on what A reads."""

    lora_A0: Tensor
    lora_B0: Tensor

    def __init__(self, *args: Any, init: str):
        super().__init__(*args)
        self.init = init
        self.register_buffer("lora_A0", torch.empty_like(self.lora_A, requires_grad=False))
        self.register_buffer("lora_B0", torch.empty_like(self.lora_B, requires_grad=False))

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Set A and B to a part of the weight, and keep it beside them."""
        parts = parts_of(weight(), self.init, len(self.lora_A), self.scale, self.groups)
        trained, kept = (self.lora_A, self.lora_B), (self.lora_A0, self.lora_B0)
        for part, now, then in zip(parts, trained, kept, strict=True):
            then.copy_(now.copy_(part.reshape(now.shape)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the update of x."""
        if not (self.dropout and self.training):
            return self.product(x, *self.pair())
        return super().forward(x) - self.product(x, self.lora_A0, self.lora_B0)

    def pair(self) -> tuple[Tensor, Tensor]:
        """Return [A; A - A0], by groups, and [B - B0, B0], of rank 2r."""
        A, B, A0, B0 = self.lora_A, self.lora_B, self.lora_A0, self.lora_B0
        rows = torch.stack([A, A - A0]).unflatten(1, (self.groups, -1)).transpose(0, 1)
        return rows.reshape(-1, *A.shape[1:]), torch.cat([B - B0, B0], 1)


class LowRankFromWeight(FromWeight, LowRank):
    """Such an update of a linear layer."""


class LowRankConvFromWeight(FromWeight, LowRankConv):
    """Such an update of a convolution, for each of its groups."""


def parts_of(
    weight: Tensor, init: str, rank: int, scale: float, groups: int
) -> tuple[Tensor, Tensor]:
    """Return A0 [groups, r, in / groups ...] and B0 [groups, out / groups, r] of a weight.

    Args:
        weight: [out, in / groups, ...].
        init: ``pissa``, ``pissa_niter_N`` or ``olora``.
        rank: number of rows of A, of all groups together.
        scale: factor s of the update.
        groups: number of groups of a convolution; each is decomposed by itself.
    """
    each = weight.to(trainable_dtype(weight.dtype)).reshape(groups, len(weight) // groups, -1)
    r = rank // groups
    if init == "olora":  # Büyükakyüz 2024, https://arxiv.org/abs/2406.01775
        Q, R = torch.linalg.qr(each)
        return R[:, :r], Q[..., :r]
    # Meng et al. 2024, https://arxiv.org/abs/2404.02948
    if init == "pissa":
        U, sigma, Vh = torch.linalg.svd(each, full_matrices=False)
    else:
        U, sigma, V = torch.svd_lowrank(each, r, int(init.rpartition("_")[2]))
        Vh = V.mT
    root = (sigma[:, :r] / scale).sqrt()
    return root[..., None] * Vh[:, :r], U[..., :r] * root[:, None]
