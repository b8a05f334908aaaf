"""The adapters. Symbols are the paper's: alpha beside a convolution, beta before the classifier."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Delta, LayerInfo, Reparam

_CALL: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class Beside(Delta):
    """y = f(x) + alpha(x), alpha a convolution of kernel 1 (Li et al. 2022).

    It reads the pixels on which the middle of f's kernel falls, so that it is a change of that
    middle. In a convolution of groups it has the same groups.
    """

    def __init__(self, layer: LayerInfo, conv: Any, config: Any):
        super().__init__()
        out, self.width = layer.weight_shape[:2]
        self.ones = (1,) * len(layer.weight_shape[2:])
        self.stride, self.groups = conv.stride, conv.groups
        self.crop = crop_of(conv)
        # the release starts with 1e-4 I; each group sees its own channels only
        start = torch.eye(out // conv.groups, self.width).repeat(conv.groups, 1)
        if config.form == "vector" and layer.in_features == out:
            start = torch.ones(out)
        self.alpha = nn.Parameter(start * (1e-4 if config.init == "released" else 0))

    def forward(self, x: Tensor) -> Tensor:
        """Return what alpha adds, [B, out, ...], to activations [B, in, ...]."""
        if any(self.crop):
            x = F.pad(x, self.crop)
        kernel = self.alpha.view(len(self.alpha), -1, *self.ones)
        # of a vector each value is a group of its own
        groups = self.groups if self.alpha.dim() == 2 else len(kernel)
        return _CALL[len(self.ones)](x, kernel, None, self.stride, groups=groups)

    def weight_delta(self) -> Tensor:
        """Return alpha in the middle of a kernel of zeros, [out, in / groups, 3, ...]."""
        alpha: Tensor = self.alpha
        if alpha.dim() == 1:
            alpha = alpha[:, None] * torch.eye(self.width).to(alpha).repeat(self.groups, 1)
        return F.pad(alpha.view(*alpha.shape, *self.ones), (1, 1) * len(self.ones))


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


def crop_of(conv: Any) -> list[int]:
    """Return what the middle of the first window leaves of a padded input.

    As ``F.pad`` takes it: both sides of each dimension, the last one first; negative to cut.
    """
    middle = [d for d in reversed(conv.dilation) for _ in range(2)]
    padding = conv._reversed_padding_repeated_twice  # in numbers, whatever was written
    return [p - d for p, d in zip(padding, middle, strict=True)]
