"""The singular values of what an adapter adds to each weight."""

from typing import Any

import torch
from torch import Tensor

from peftcore import ConfigError, MergeError, merge, unmerge
from peftcore_interpret.opened import Opened

#: Singular values that are kept of a matrix.
_KEPT = 64


def spectrum(run: Opened) -> dict[str, Any]:
    """Return singular values, rank and size of the change of every weight that the adapter changes.

    The change is the merged weight less the base's, so that it is exact to the rounding of the
    weights: singular values below that of the weight are left out, and the rank counts the others.

    Raises:
        ConfigError: the adapter changes no weight, or cannot be merged.
    """
    paths = {item.site.path for item in run.adapter.placed}
    named = {
        name: parameter
        for name, parameter in run.model.named_parameters()
        if parameter.ndim == 2 and name.rpartition(".")[0] in paths
    }
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    if not before:
        raise ConfigError(
            f"{run.place}: the adapter acts on no weight, and an update of none has no spectrum;"
            " leave spectrum out."
        )
    try:
        merge(run.model)
    except MergeError as error:
        raise ConfigError(f"{run.place}: there is no spectrum: {error}") from error
    try:
        after = dict(run.model.named_parameters())
        found = {name: _of(weight, after[name].detach()) for name, weight in before.items()}
    finally:
        unmerge(run.model)
    return {"weights": {name: one for name, one in found.items() if one["rank"]}}


def _of(before: Tensor, after: Tensor) -> dict[str, Any]:
    weight = before.double()
    values = torch.linalg.svdvals(after.double() - weight)
    largest = float(torch.linalg.matrix_norm(weight, 2))
    rounding = max(before.shape) * torch.finfo(before.dtype).eps * largest
    kept = values[values > rounding]
    squares = kept.square()
    shares = squares / squares.sum() if len(kept) else squares
    return {
        "shape": list(before.shape),
        "singular_values": kept[:_KEPT].tolist(),
        "rank": len(kept),
        # how many directions it would be, were they of one length
        "effective_rank": float(torch.special.entr(shares).sum().exp()) if len(kept) else 0.0,
        "norm": float(squares.sum().sqrt()),
        "relative_norm": float(squares.sum().sqrt() / torch.linalg.matrix_norm(weight)),
    }
