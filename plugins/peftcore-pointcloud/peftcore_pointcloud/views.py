"""What is done to a cloud before a network sees it, as transforms of torch-geometric."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform, Compose, RandomRotate

from peftcore_pointcloud.neighbours import farthest_points

#: Of how many times as many candidates the points of training are drawn: 1,200 for 1,024.
SURPLUS = 1200 / 1024


class UnitSphere(BaseTransform):
    """Move a cloud's centre of mass to the origin, and its farthest point to distance 1."""

    def forward(self, data: Data) -> Data:
        """Return the data with such positions."""
        pos = data.pos - data.pos.mean(0)
        data.pos = pos / pos.norm(dim=1).max().clamp(min=torch.finfo(pos.dtype).tiny)
        return data


class Candidates(BaseTransform):
    """Keep points that stand for the whole cloud.

    Args:
        count: how many; a smaller cloud stays as it is.
        how: ``farthest`` from each other, the ``first`` of the file, or ``random`` ones.
    """

    def __init__(self, count: int, how: str):
        self.count = count
        self.how = how

    def forward(self, data: Data) -> Data:
        """Return the data with fewer positions."""
        if len(data.pos) > self.count:
            data.pos = data.pos[self._chosen(data.pos)]
        return data

    def _chosen(self, pos: Tensor) -> Tensor:
        if self.how == "farthest":
            return farthest_points(pos[None], self.count)[0]
        if self.how == "first":
            return torch.arange(self.count)
        return torch.randperm(len(pos))[: self.count]


class Drawn(BaseTransform):
    """Keep points at random, in a random order.

    Args:
        count: how many.
    """

    def __init__(self, count: int):
        self.count = count

    def forward(self, data: Data) -> Data:
        """Return the data with so many positions."""
        data.pos = data.pos[torch.randperm(len(data.pos))[: self.count]]
        return data


class ScaleAndShift(BaseTransform):
    """Stretch each axis by a factor of its own, and move the cloud along each.

    Args:
        scale: least and largest factor.
        shift: largest distance.
    """

    def __init__(self, scale: tuple[float, float], shift: float):
        self.scale = scale
        self.shift = shift

    def forward(self, data: Data) -> Data:
        """Return the data with moved positions."""
        low, high = self.scale
        factor = low + (high - low) * torch.rand(3)
        data.pos = data.pos * factor + self.shift * (2 * torch.rand(3) - 1)
        return data


def changes(scale: tuple[float, float], shift: float, rotate: str | None) -> Compose:
    """Return what changes a cloud at random in training: scale, shift, rotation about an axis."""
    steps: list[BaseTransform] = [ScaleAndShift(scale, shift)]
    if rotate is not None:
        steps.append(RandomRotate(180.0, axis="xyz".index(rotate)))
    return Compose(steps)


def applied(
    steps: Sequence[BaseTransform], points: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Return points, [N, 3], after transforms; all chance is in the generator, if there is one."""
    if generator is None:
        data: Data = Compose(list(steps))(Data(pos=points))
        return data.pos  # type: ignore[no-any-return]
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # torch-geometric draws from the global generator
        return applied(steps, points)
