"""FAVOR+, attention whose cost grows with the sequence and not with its square.

Choromanski et al. 2021, https://arxiv.org/abs/2009.14794, as scBERT uses it.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn


def orthogonal_gaussian(features: int, width: int) -> Tensor:
    """Draw random projections, [features, width], from torch's generator of the CPU.

    Rows are orthogonal within each block of ``width`` of them, and as long as rows of independent
    normal numbers are.
    """
    blocks = []
    for start in range(0, features, width):
        square, _ = torch.linalg.qr(torch.randn(width, width, device="cpu"))
        blocks.append(square.T[: features - start])
    lengths = torch.randn(features, width, device="cpu").norm(dim=1, keepdim=True)
    return lengths * torch.cat(blocks)


def favor(
    query: Tensor, key: Tensor, value: Tensor, projection: Tensor, *, released: bool = False
) -> Tensor:
    """Return softmax attention as random features of the exponential estimate it.

    With x' = x d^(-1/4) a feature is exp(w x' - |x'|^2 / 2 - max) + 1e-4, where the maximum is over
    the features of a query, and over the keys of a head. What is added is a constant of all
    features, so that it enters the sums by itself and is never written beside each of them.

    Args:
        query, key: [B, H, N, d].
        value: [B, H, N, e].
        projection: [m, d].
        released: take the maximum of the keys over the whole call, and let gradients through it,
            as the code of scBERT does; rows of a batch then change each other a little.

    Returns:
        [B, H, N, e], in the dtype of ``value``.
    """
    epsilon, width = 1e-4, query.shape[-1]
    dtype = torch.promote_types(value.dtype, torch.float32)
    with torch.autocast(value.device.type, enabled=False):
        scaled = projection.to(dtype).T * width**-0.25
        over = None if released else (-1, -2)
        q = _features(query.to(dtype), scaled, (-1,), released)
        k = _features(key.to(dtype), scaled, over, released)
        # a last column of ones sums up the weights beside the values
        values = torch.cat((value.to(dtype), value.new_ones(*value.shape[:-1], 1, dtype=dtype)), -1)
        context = k.mT @ values + epsilon * values.sum(-2, keepdim=True)
        sums = q @ context + epsilon * context.sum(-2, keepdim=True)
        return (sums[..., :-1] / sums[..., -1:]).to(value.dtype)


def _features(x: Tensor, scaled: Tensor, over: tuple[int, ...] | None, released: bool) -> Tensor:
    """Return exp(w x' - |x'|^2 / 2 - max), [B, H, N, m]."""
    products = x @ scaled
    half = x.square().sum(-1, keepdim=True) * (0.5 * x.shape[-1] ** -0.5)
    seen = products if released else products.detach()
    highest = seen.amax() if over is None else seen.amax(over, keepdim=True)
    if released:  # the maximum is differentiated, and needs the products as they are
        return (products - (half + highest)).exp_()
    return products.sub_(half + highest).exp_()


class FastAttention(nn.Module):
    """Attention by random features.

    Args:
        width: of a head.
        features: m; width ln width by default.
        released: as in :func:`favor`.
    """

    moved_in_training: ClassVar[tuple[str, ...]] = ("projection_matrix",)
    projection_matrix: Tensor

    def __init__(self, width: int, features: int, *, released: bool = False):
        super().__init__()
        self.released = released
        self.register_buffer("projection_matrix", torch.empty(features, width))
        if not self.projection_matrix.is_meta:
            self.redraw()

    @torch.no_grad()
    def redraw(self) -> None:
        """Draw the projections anew."""
        self.projection_matrix.copy_(orthogonal_gaussian(*self.projection_matrix.shape))

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend; each is [B, H, N, width]."""
        return favor(query, key, value, self.projection_matrix, released=self.released)


def feature_count(width: int) -> int:
    """Return how many features scBERT estimates the attention of a head with: 266 of 64."""
    return int(width * math.log(width))
