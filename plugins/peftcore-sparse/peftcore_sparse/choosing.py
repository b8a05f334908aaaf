"""How many weights train, and which: the highest scores, in a pattern, exactly as many as asked."""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import reduce

import torch
from torch import Tensor

Shape = tuple[int, ...]


def kept(count: int, p: float) -> int:
    """Return count - floor(p count), p being the number as it is written.

    Example:
        >>> kept(100, 0.29)  # 0.29 * 100 is 28.999999999999996 in binary
        71
    """
    return count - math.floor(Fraction(str(p)) * count)


def counts(shapes: Sequence[Shape], p: float, *, together: bool, pattern: str) -> list[int]:
    """Return how many weights of each tensor train, as far as that is known without scores.

    Where tensors are ranked together each gets its share of the number, which is exact as a sum;
    of rows that differ in length, only the number of rows is.
    """
    if pattern == "2:4":
        return [math.prod(shape) // 2 for shape in shapes]
    units = [shape[0] if pattern == "rows" else math.prod(shape) for shape in shapes]
    sizes = [math.prod(shape) // unit for shape, unit in zip(shapes, units, strict=True)]
    if not together:
        return [kept(unit, p) * size for unit, size in zip(units, sizes, strict=True)]
    total, k, before, out = sum(units), kept(sum(units), p), 0, []
    for unit, size in zip(units, sizes, strict=True):
        share = k * (before + unit) // total - k * before // total
        out.append(share * size)
        before += unit
    return out


def choose(scores: Sequence[Tensor], p: float, *, together: bool, pattern: str) -> list[Tensor]:
    """Return for each tensor which weights train, [k] int64 ascending places, flattened.

    Of equal scores the earlier tensor, then the lower place, comes first.

    Args:
        scores: [out, in, ...] each.
        p: share that does not train.
        together: rank all tensors together.
        pattern: ``unstructured``, ``rows`` or ``2:4``.
    """
    if pattern == "2:4":
        return [_two_of_four(score) for score in scores]
    rows = pattern == "rows"
    units = [score.flatten(1).mean(1) if rows else score.flatten() for score in scores]
    groups = [units] if together else [[unit] for unit in units]
    found = [one for g in groups for one in _highest(g, kept(sum(map(len, g)), p))]
    if not rows:
        return found
    return [_whole_rows(one, s[0].numel()) for one, s in zip(found, scores, strict=True)]


def _highest(scores: Sequence[Tensor], k: int) -> list[Tensor]:
    """Return the places of the k highest of several vectors, ascending in each."""
    wide = reduce(torch.promote_types, (s.dtype for s in scores), torch.float32)
    keys = [_as_integers(score.to(wide)) for score in scores]
    least = _kth_highest(keys, k)
    missing = k - sum(int((key > least).sum()) for key in keys)
    found = []
    for key in keys:
        tied = (key == least).nonzero()[:missing, 0]
        missing -= len(tied)
        found.append(torch.cat([(key > least).nonzero()[:, 0], tied]).sort().values)
    return found


def _as_integers(score: Tensor) -> Tensor:
    """Return integers that are ordered as the floating numbers are."""
    integer = torch.int64 if score.dtype == torch.float64 else torch.int32
    bits = (score + 0.0).view(integer)  # the sum turns -0.0 into 0.0
    return torch.where(bits < 0, bits ^ torch.iinfo(integer).max, bits)


def _kth_highest(keys: Sequence[Tensor], k: int) -> int:
    """Return the k-th highest of all, by bisection: no copy of all, and no sorting."""
    low, high = torch.iinfo(keys[0].dtype).min, torch.iinfo(keys[0].dtype).max
    while low < high:
        middle = (low + high + 1) // 2
        if sum(int((key >= middle).sum()) for key in keys) >= k:
            low = middle
        else:
            high = middle - 1
    return low


def _two_of_four(score: Tensor) -> Tensor:
    """Return the places of the two highest of each four consecutive inputs."""
    last = score.movedim(1, -1)
    fours = last.reshape(-1, 4)
    two = fours.sort(dim=1, descending=True, stable=True).indices[:, :2]
    mask = torch.zeros_like(fours, dtype=torch.bool).scatter_(1, two, True)
    return mask.view(last.shape).movedim(-1, 1).flatten().nonzero()[:, 0]


def _whole_rows(rows: Tensor, width: int) -> Tensor:
    return (rows[:, None] * width + torch.arange(width, device=rows.device)).flatten()
