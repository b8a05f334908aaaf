"""Farthest points and nearest neighbours of batches of clouds."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor


class Kernels(NamedTuple):
    """Compiled functions on points of all clouds, one after the other, [B * N, 3]."""

    fps: Callable[..., Tensor]
    knn: Callable[..., Tensor]


def _installed() -> Kernels | None:
    if find_spec("torch_cluster") is not None:
        from torch_cluster import fps, knn

        return Kernels(fps, knn)
    if find_spec("pyg_lib") is not None:
        from torch_geometric.nn import fps, knn

        return Kernels(fps, knn)
    return None


#: Those of torch-cluster or, through torch-geometric, of pyg-lib, where one is installed.
KERNELS = _installed()


def farthest_points(points: Tensor, count: int) -> Tensor:
    """Return the indices of points that are far from each other, [B, count].

    The first point of a cloud comes first; each further one is the farthest from all before it. On
    an accelerator it runs in torch-cluster or pyg-lib where one is installed; on a CPU plain torch,
    over the batch at once, is faster than these (bench/points.md).

    Args:
        points: [B, N, 3], N at least ``count``.
        count: how many.
    """
    points = points.detach().float()
    if (found := KERNELS) is not None and count > 1 and points.device.type != "cpu":
        return _farthest_by_kernel(found, points, count)
    axes = points.transpose(1, 2).contiguous()  # [B, 3, N]
    rows = torch.arange(len(points), device=points.device)
    chosen = rows.new_zeros(len(points), count)
    nearest_chosen = points.new_full(points.shape[:2], torch.inf)
    for i in range(1, count):
        last = axes[rows, :, chosen[:, i - 1], None]
        apart = (axes - last).square_().sum(1)
        torch.minimum(nearest_chosen, apart, out=nearest_chosen)
        chosen[:, i] = nearest_chosen.max(1).indices
    return chosen


def nearest(points: Tensor, centres: Tensor, count: int) -> Tensor:
    """Return the indices of the points that are nearest to each centre, [B, G, count], in order.

    It runs in torch-cluster or pyg-lib where one is installed, else in plain torch.

    Args:
        points: [B, N, 3], N at least ``count``.
        centres: [B, G, 3].
        count: how many.
    """
    points, centres = points.detach().float(), centres.detach().float()
    if (found := KERNELS) is not None:
        return _nearest_by_kernel(found, points, centres, count)
    # the way by a product of matrices would lose the digits by which near points differ
    apart = torch.cdist(centres, points, compute_mode="donot_use_mm_for_euclid_dist")
    return apart.topk(count, largest=False).indices


def gathered(rows: Tensor, index: Tensor) -> Tensor:
    """Return the rows of each cloud that indices name, [B, *index, C].

    Args:
        rows: [B, N, C].
        index: [B, ...].
    """
    flat = index.flatten(1)[..., None].expand(-1, -1, rows.shape[-1])
    return rows.gather(1, flat).view(*index.shape, rows.shape[-1])


def _numbers(points: Tensor) -> Tensor:
    """Return for each point of all clouds which cloud it is of, [B * N]."""
    rows, count = points.shape[:2]
    return torch.arange(rows, device=points.device).repeat_interleave(count)


def _farthest_by_kernel(found: Kernels, points: Tensor, count: int) -> Tensor:
    rows, size = points.shape[:2]
    # the kernel rounds the number of points up
    ratio = (count - 0.5) / size
    index = found.fps(points.flatten(0, 1), _numbers(points), ratio, False, rows)
    return index.view(rows, count) % size


def _nearest_by_kernel(found: Kernels, points: Tensor, centres: Tensor, count: int) -> Tensor:
    rows, size = points.shape[:2]
    numbers = _numbers(points), _numbers(centres)
    _, index = found.knn(points.flatten(0, 1), centres.flatten(0, 1), count, *numbers)
    return index.view(rows, centres.shape[1], count) % size
