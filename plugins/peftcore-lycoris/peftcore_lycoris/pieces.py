"""The updates. Names of the tensors are those of LyCORIS and of Hugging Face PEFT."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Delta, LayerInfo


class _Update(Delta):
    """A change of a linear layer; what stands in ``zero`` starts at zero, all else random."""

    casts_itself = True
    zero: ClassVar[tuple[str, ...]]

    def __init__(self, layer: LayerInfo, config: Any):
        super().__init__()
        self.layer_sizes = (layer.out_features, layer.in_features)
        self.scale = config.scale()
        self.dropout, self.rank_dropout = config.dropout, config.rank_dropout

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Draw the factors, but for the one that makes the product zero."""
        for name, factor in self.named_parameters():
            if name not in self.zero:
                nn.init.kaiming_uniform_(factor, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Return the update, [..., out], of activations [..., in]."""
        out = self.update(F.dropout(x, self.dropout, self.training))
        if not (self.rank_dropout and self.training):
            return out
        # outputs are dropped for the whole batch, and the others scaled so that the mean stays
        keep = (torch.rand(out.shape[-1], device=out.device) > self.rank_dropout).to(out.dtype)
        return out * (keep / keep.mean().clamp_min(1 / len(keep)))

    def update(self, x: Tensor) -> Tensor:
        """Return the update without dropout, [..., out], of activations [..., in]."""
        raise NotImplementedError


class Hadamard(_Update):
    """Update s (B₁ A₁) ⊙ (B₂ A₂) of a linear layer (Hyeon-Woo et al. 2022, proposition 1)."""

    zero = ("hada_w2_b",)

    def __init__(self, layer: LayerInfo, config: Any):
        super().__init__(layer, config)
        (out, in_), rank = self.layer_sizes, config.rank
        self.hada_w1_a = _zeros(out, rank)
        self.hada_w1_b = _zeros(rank, in_)
        self.hada_w2_a = _zeros(out, rank)
        self.hada_w2_b = _zeros(rank, in_)

    def update(self, x: Tensor) -> Tensor:
        """Return the update, [..., out], of activations [..., in]."""
        rank = len(self.hada_w1_b)
        if 2 * rank * rank > min(self.layer_sizes):
            return F.linear(x, self.weight_delta().to(x.dtype))
        # the product has rank r²: its factors are products of columns and of rows, so that
        # nothing of the size of the weight is made or kept for backward
        down = (self.hada_w1_b[:, None] * self.hada_w2_b).flatten(0, 1)
        up = (self.hada_w1_a[:, :, None] * self.hada_w2_a[:, None]).flatten(1)
        read = F.linear(x, down.to(x.dtype)) * self.scale
        return F.linear(read, up.to(x.dtype))

    def weight_delta(self) -> Tensor:
        """Return the update, [out, in]."""
        first = (self.hada_w1_a * self.scale) @ self.hada_w1_b
        return first * (self.hada_w2_a @ self.hada_w2_b)


class Kronecker(_Update):
    """Update s C ⊗ D of a linear layer, D (and C) of low rank where that saves values.

    C is [a, c] and D [b, d] for a weight of [a b, c d] (Yeh et al. 2024, section 3.3).
    """

    zero = ("lokr_w1", "lokr_w1_a")

    def __init__(self, layer: LayerInfo, config: Any):
        super().__init__(layer, config)
        rank = config.rank
        (a, b), (c, d) = (split(size, config.decompose_factor) for size in self.layer_sizes)
        if config.decompose_both and rank < max(a, c) / 2:
            self.lokr_w1_a = _zeros(a, rank)
            self.lokr_w1_b = _zeros(rank, c)
        else:
            self.lokr_w1 = _zeros(a, c)
        if rank < max(b, d) / 2:
            self.lokr_w2_a = _zeros(b, rank)
            self.lokr_w2_b = _zeros(rank, d)
        else:
            self.lokr_w2 = _zeros(b, d)

    def _factor(self, name: str) -> Tensor:
        own = self._parameters
        whole = own.get(f"lokr_{name}")
        if whole is not None:
            return whole
        return own[f"lokr_{name}_a"] @ own[f"lokr_{name}_b"]  # type: ignore[operator]

    def update(self, x: Tensor) -> Tensor:
        """Return the update, [..., out], of activations [..., in]."""
        # (C ⊗ D) x = C X Dᵀ with X the [c, d] matrix of x: the weight's size never appears
        first, second = self._factor("w1").to(x.dtype), self._factor("w2").to(x.dtype)
        parts = F.linear(x.unflatten(-1, (-1, second.shape[1])), second)
        return (first * self.scale @ parts).flatten(-2)

    def weight_delta(self) -> Tensor:
        """Return the update, [out, in]."""
        return torch.kron(self._factor("w1") * self.scale, self._factor("w2"))


def _zeros(rows: int, columns: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(rows, columns))


def split(size: int, largest: int | None) -> tuple[int, int]:
    """Return two factors of a size, the smaller one first and at most ``largest``.

    A ``largest`` that divides the size is the first factor itself, as in LyCORIS.

    Example:
        >>> split(128, None), split(128, 4), split(127, None), split(250, 12)
        ((8, 16), (4, 32), (1, 127), (10, 25))
    """
    if largest is not None and size % largest == 0:
        return largest, size // largest
    most = min(math.isqrt(size), largest or size)
    first = next(n for n in range(most, 0, -1) if size % n == 0)
    return first, size // first
