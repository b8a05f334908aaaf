"""Distributed interchange intervention, the operation behind LoReFT. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def dii(
    base: Tensor,
    source: Tensor | Mapping[str, Tensor],
    R: Tensor,
    subspaces: Mapping[str, Sequence[int]] | None = None,
) -> Tensor:
    """Return base with its part in the row space of R taken from source: b + Rᵀ(R s - R b).

    Geiger et al. 2023, https://arxiv.org/abs/2303.02536; Wu et al. 2024, equation 1.

    Args:
        base: [..., d] hidden vectors b.
        source: [..., d] hidden vectors s, of a forward pass on another input; with subspaces,
            one by name for each subspace to interchange.
        R: [r, d] with orthonormal rows.
        subspaces: a partition of the r rows by name; what source does not name stays base's.

    Raises:
        ValueError: the subspaces are no partition, or source does not go by their names.

    Example:
        >>> import torch
        >>> b, s, R = torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3), torch.eye(3)[:2]
        >>> dii(b, s, R)
        tensor([0., 0., 3.])
        >>> dii(b, {"second": s}, R, {"first": [0], "second": [1]})
        tensor([1., 0., 3.])
    """
    if subspaces is None and not isinstance(source, Mapping):
        return base + (source - base) @ R.mT @ R
    if subspaces is None or not isinstance(source, Mapping) or not set(source) <= set(subspaces):
        raise ValueError(
            "give both: subspaces, and source as a mapping from their names to vectors"
        )
    rows = sorted(row for part in subspaces.values() for row in part)
    if rows != list(range(len(R))):
        raise ValueError(f"subspaces {dict(subspaces)} are no partition of the {len(R)} rows of R")
    out = base
    for name, vectors in source.items():
        part = R[list(subspaces[name])]
        out = out + (vectors - base) @ part.mT @ part
    return out
