"""LoRA that starts from the weight itself: PiSSA and OLoRA.

The papers start A and B at parts A0, B0 of the weight W and train beside W - s B0 A0. Here W stays
as it is, and the update is s (B A - B0 A0), with A0 and B0 kept. As one product of rank 2r,

    B A - B0 A0 = (B - B0) A + B0 (A - A0),

it is exactly zero at the start, and no small change is the difference of two large products.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from peftcore import LayerInfo, Site, trainable_dtype
from peftcore_lora.pieces import Conv, LowRank, LowRankConv

#: A and B, shaped as those of the piece.
Start = tuple[Tensor, Tensor]


@torch.no_grad()
def start_from(site: Site, init: str, rank: int, scale: float, groups: int) -> Start:
    """Return A0 [r, in / groups, ...] and B0 [out, r / groups, 1, ...] of the weight at a site.

    Args:
        site: a linear layer or a convolution.
        init: ``pissa``, ``pissa_niter_N`` or ``olora``.
        rank: number of rows of A.
        scale: factor s of the update.
        groups: number of groups of a convolution; each is decomposed by itself.
    """
    weight = site.weight()
    shape, dims = weight.shape, weight.dim() - 2
    each = weight.to(trainable_dtype(weight.dtype)).reshape(groups, len(weight) // groups, -1)
    r = rank // groups
    if init == "olora":  # Büyükakyüz 2024, https://arxiv.org/abs/2406.01775
        Q, R = torch.linalg.qr(each)
        down, up = R[:, :r], Q[..., :r]
    else:  # Meng et al. 2024, https://arxiv.org/abs/2404.02948
        if init == "pissa":
            U, sigma, Vh = torch.linalg.svd(each, full_matrices=False)
        else:
            U, sigma, V = torch.svd_lowrank(each, r, int(init.rpartition("_")[2]))
            Vh = V.mT
        root = (sigma[:, :r] / scale).sqrt()
        down, up = root[..., None] * Vh[:, :r], U[..., :r] * root[:, None]
    return down.reshape(rank, *shape[1:]), up.reshape(len(weight), r, *(1,) * dims)


class LowRankFromWeight(LowRank):
    """Update of a linear layer, s (B A - B0 A0) x; dropout is on what A reads."""

    lora_A0: Tensor
    lora_B0: Tensor

    def __init__(
        self, start: Start | None, layer: LayerInfo, rank: int, scale: float, dropout: float
    ):
        super().__init__(layer, rank, scale, dropout)
        _begin(self, start)

    def forward(self, x: Tensor) -> Tensor:
        """Return the update, [..., out], of activations [..., in]."""
        if self.dropout and self.training:
            return super().forward(x) - _linear(x, self.lora_A0, self.lora_B0 * self.scale)
        return _linear(x, *self.factors())

    def factors(self) -> Start:
        """Return two factors of rank 2r, [2r, in] and [out, 2r]; the scale is in the second."""
        down, up = _doubled(self, 1)
        return down, up * self.scale


class LowRankConvFromWeight(LowRankConv):
    """The same beside a convolution, for each of its groups."""

    lora_A0: Tensor
    lora_B0: Tensor

    def __init__(
        self, start: Start | None, layer: LayerInfo, rank: int, scale: float, dropout: float,
        conv: Conv,
    ):  # fmt: skip
        super().__init__(layer, rank, scale, dropout, conv)
        _begin(self, start)

    def forward(self, x: Tensor) -> Tensor:
        """Return the update, [B, out, ...], of activations [B, in, ...]."""
        if self.dropout and self.training:
            return super().forward(x) - self.convolve(x, self.lora_A0, self.lora_B0)
        return self.convolve(x, *_doubled(self, self.geometry[-1]))

    def factors(self) -> Start:
        """Return two factors of rank 2r; the scale is in the second."""
        down, up = _doubled(self, self.geometry[-1])
        return down, up * self.scale


def _begin(piece: Any, start: Start | None) -> None:
    """Set A and B to their start and keep it beside them; None where a checkpoint brings it."""
    if start is not None:
        with torch.no_grad():
            piece.lora_A.copy_(start[0])
            piece.lora_B.copy_(start[1])
    piece.register_buffer("lora_A0", piece.lora_A.detach().clone())
    piece.register_buffer("lora_B0", piece.lora_B.detach().clone())


def _doubled(piece: Any, groups: int) -> Start:
    """Return [A; A - A0], by groups, and [B - B0, B0]."""
    A, B = piece.lora_A, piece.lora_B
    rows = torch.stack([A, A - piece.lora_A0]).unflatten(1, (groups, -1)).transpose(0, 1)
    return rows.reshape(-1, *A.shape[1:]), torch.cat([B - piece.lora_B0, piece.lora_B0], 1)


def _linear(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    return F.linear(F.linear(x, down.to(x.dtype)), up.to(x.dtype))
