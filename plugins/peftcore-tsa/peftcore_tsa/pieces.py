"""The adapters. Symbols are the paper's: alpha beside a convolution, beta before the classifier."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Delta, LayerInfo, Reparam

#: What the release multiplies the identity with.
_START = 1e-4
_CALL: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class Beside(Delta):
    """y = f(x) + alpha(x), alpha a convolution of kernel 1 (Li et al. 2022).

    It reads the pixels on which the middle of f's kernel falls, so that it is a change of that
    middle. In a convolution of groups it has the same groups.
    """

    def __init__(self, layer: LayerInfo, conv: Any, *, vector: bool, zero: bool):
        super().__init__()
        self.weight_shape = layer.weight_shape
        self.stride, self.groups = conv.stride, conv.groups
        # what the first window's middle leaves of the input, on both sides; last dimension first
        crop = [p - d for p, d in zip(padding_of(conv), conv.dilation, strict=True)]
        self.padding = [c for c in reversed(crop) for _ in range(2)] if any(crop) else None
        start = torch.eye(layer.out_features, layer.in_features)
        if vector:
            start = start.diagonal()
        elif conv.groups > 1:
            # each group sees its own channels only
            width = layer.weight_shape[1]
            start = torch.eye(layer.out_features // conv.groups, width).repeat(conv.groups, 1)
        self.alpha = nn.Parameter(start * (0 if zero else _START))

    def forward(self, x: Tensor) -> Tensor:
        """Return what alpha adds, [B, out, ...], to activations [B, in, ...]."""
        if self.padding is not None:
            x = F.pad(x, self.padding)
        dims = len(self.weight_shape) - 2
        if self.alpha.dim() == 1:
            every: tuple[Any, ...] = (..., *(slice(None, None, step) for step in self.stride))
            return x[every] * self.alpha.view(-1, *(1,) * dims)
        kernel = self.alpha.view(*self.alpha.shape, *(1,) * dims)
        return _CALL[dims](x, kernel, None, self.stride, 0, 1, self.groups)

    def weight_delta(self) -> Tensor:
        """Return alpha in the middle of a kernel of zeros, [out, in / groups, 3, ...]."""
        alpha: Tensor = self.alpha
        if alpha.dim() == 1:
            width = self.weight_shape[1]
            column = torch.arange(len(alpha), device=alpha.device) % width
            alpha = alpha[:, None] * F.one_hot(column, width)
        dims = len(self.weight_shape) - 2
        return F.pad(alpha.view(*alpha.shape, *(1,) * dims), (1, 1) * dims)


class BeforeHead(Reparam):
    """f(beta x): the head reads transformed features; beta is d by d and starts as I."""

    def __init__(self, width: int):
        super().__init__()
        self.beta = nn.Parameter(torch.eye(width))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the head's weight after beta, [out, in]."""
        return weight @ self.beta.to(weight.dtype)

    def through(
        self, call: Callable[[Tensor], Tensor], x: Tensor, precomputed: Any, bias: Tensor | None
    ) -> Tensor:
        """Return the head's output, [..., out], for x [..., in]."""
        return call(F.linear(x, self.beta.to(x.dtype)))


def padding_of(conv: Any) -> tuple[int, ...]:
    """Return the padding of a convolution of kernel 3 in each dimension."""
    if conv.padding == "same":
        return tuple(conv.dilation)
    return (0,) * len(conv.dilation) if conv.padding == "valid" else tuple(conv.padding)
