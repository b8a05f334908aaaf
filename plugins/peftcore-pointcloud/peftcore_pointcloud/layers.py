"""The layers that Point-BERT, Point-MAE and Point-M2AE are made of, named as in their releases."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore_pointcloud.neighbours import farthest_points, gathered, nearest

#: What is added to a score of attention that is masked.
_MASKED = -100_000.0


class Groups(NamedTuple):
    """Clouds in groups around centres.

    Attributes:
        neighbours: [B, G, M, 3], relative to their centre.
        centres: [B, G, 3].
        index: [B, G, M], which points of the cloud the neighbours are.
        centre_index: [B, G], which points of the cloud the centres are.
    """

    neighbours: Tensor
    centres: Tensor
    index: Tensor
    centre_index: Tensor


class Grouping(nn.Module):
    """Farthest points as centres, and the nearest points around each.

    Args:
        num_group: G, number of centres.
        group_size: M, number of points around each.
    """

    def __init__(self, num_group: int, group_size: int):
        super().__init__()
        self.num_group = num_group
        self.group_size = group_size

    def forward(self, points: Tensor) -> Groups:
        """Return the groups of clouds, [B, N, 3]; gradients reach the points."""
        centre_index = farthest_points(points, self.num_group)
        centres = gathered(points, centre_index)
        index = nearest(points, centres, self.group_size)
        neighbours = gathered(points, index) - centres[:, :, None]
        return Groups(neighbours, centres, index, centre_index)


class PointNet(nn.Module):
    """A vector for each group of points or of features: shared layers and two maxima.

    Args:
        into: features of a point.
        inner: widths of the three layers between.
        out: width of the vector.
    """

    def __init__(self, into: int, inner: tuple[int, int, int], out: int):
        super().__init__()
        first, second, third = inner
        self.first_conv = nn.Sequential(
            nn.Conv1d(into, first, 1), nn.BatchNorm1d(first), nn.ReLU(), nn.Conv1d(first, second, 1)
        )
        self.second_conv = nn.Sequential(
            nn.Conv1d(2 * second, third, 1),
            nn.BatchNorm1d(third),
            nn.ReLU(),
            nn.Conv1d(third, out, 1),
        )

    def forward(self, groups: Tensor) -> Tensor:
        """Return the vectors of groups, [B, G, M, C] to [B, G, out]."""
        rows, count = groups.shape[:2]
        features = self.first_conv(groups.flatten(0, 1).transpose(1, 2))  # [B * G, second, M]
        whole = features.max(2, keepdim=True).values.expand_as(features)
        features = self.second_conv(torch.cat([whole, features], 1))
        return features.max(2).values.view(rows, count, -1)


class DropPath(nn.Module):
    """Drop the branch of whole rows in training, Huang et al. 2016, stochastic depth.

    Args:
        rate: the share that is dropped.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """Return the branch, scaled where it is kept."""
        if not self.training or not self.rate:
            return branch
        shape = (len(branch),) + (1,) * (branch.dim() - 1)
        kept = torch.empty(shape, device=branch.device, dtype=branch.dtype)
        return branch * kept.bernoulli_(1 - self.rate).div_(1 - self.rate)


class Mlp(nn.Module):
    """Two layers with GELU between."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch, shaped as x."""
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class Attention(nn.Module):
    """Self-attention of several heads; one projection without bias to queries, keys and values."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the attended tokens.

        Args:
            x: [B, L, d].
            mask: [B, L, L] bool, True where a token is not seen.
        """
        rows, length, width = x.shape
        parts = self.qkv(x).view(rows, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        bias = None if mask is None else mask[:, None].to(x.dtype) * _MASKED
        seen = F.scaled_dot_product_attention(*parts, attn_mask=bias)
        out: Tensor = self.proj(seen.transpose(1, 2).reshape(rows, length, width))
        return out


class Block(nn.Module):
    """One layer: attention and MLP, each after a norm and beside the stream."""

    def __init__(self, width: int, heads: int, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)
        self.attn = Attention(width, heads)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the stream after the layer, [B, L, d]; ``mask`` as in :class:`Attention`."""
        x = x + self.drop_path(self.attn(self.norm1(x), mask))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Blocks(nn.Module):
    """A stack of blocks; positions are added to the input of each."""

    def __init__(self, width: int, heads: int, drop_paths: list[float]):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, rate) for rate in drop_paths)

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the stream after all blocks, [B, L, d]."""
        for block in self.blocks:
            x = block(x + position, mask)
        return x


def rising(rate: float, depth: int) -> list[float]:
    """Return the drop-path rates of blocks, from 0 to the given one."""
    return [float(value) for value in torch.linspace(0, rate, depth, device="cpu")]


def position_network(width: int, inner: int) -> nn.Sequential:
    """Return what makes the position of a token of its centre's coordinates."""
    return nn.Sequential(nn.Linear(3, inner), nn.GELU(), nn.Linear(inner, width))


def classifier(into: int, classes: int, *, deep: bool) -> nn.Sequential:
    """Return the released head: three layers with batch norms, or two without."""
    first = [nn.Linear(into, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(0.5)]
    if not deep:
        return nn.Sequential(first[0], *first[2:], nn.Linear(256, classes))
    second = [nn.Linear(256, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*first, *second, nn.Linear(256, classes))


def draw(module: nn.Module) -> None:
    """Start a layer as the releases do: truncated normal weights, biases of zero."""
    if isinstance(module, nn.Linear | nn.Conv1d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def draw_decoder(module: nn.Module) -> None:
    """Start a layer of a decoder as the releases do: Xavier's weights, biases of zero."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
