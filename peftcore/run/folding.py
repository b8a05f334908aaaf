"""Stored weights and biases with the weight forms of pieces folded in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from peftcore.method.pieces import Delta, Reparam
from peftcore.method.placed import Placed
from peftcore.model.context import Context
from peftcore.model.layers import Layer
from peftcore.run.casting import new_bias, run_piece

#: (start, stop) of the output features of a slice; None for the whole.
Features = tuple[int, int] | None


def _reparams(placed: Iterable[Placed]) -> list[tuple[Reparam, Features]]:
    return [(p.piece, p.site.features) for p in placed if isinstance(p.piece, Reparam)]


def reparametrised(
    weight: Tensor, reparams: Iterable[tuple[Reparam, Features]], context: Context | None = None
) -> Tensor:
    """Return a weight, [out, in, ...], after the given reparametrisations."""
    for piece, features in reparams:
        if features is None:
            weight = run_piece(piece, weight, context).to(weight.dtype)
        else:
            start, stop = features
            part = run_piece(piece, weight[start:stop], context).to(weight.dtype)
            weight = torch.cat([weight[:start], part, weight[stop:]])
    return weight


def rebiased(bias: Tensor, reparams: Iterable[tuple[Reparam, Features]]) -> Tensor:
    """Return a bias, [out], after the given reparametrisations."""
    for piece, features in reparams:
        if piece.changes_bias:
            start, stop = features or (0, len(bias))
            bias = torch.cat([bias[:start], new_bias(piece, bias[start:stop]), bias[stop:]])
    return bias


def folded(stored: Tensor, placed: Sequence[Placed], layer: Layer | None) -> Tensor:
    """Return a stored weight with the weight forms of pieces folded in; the order is a site's."""
    to_stored = layer.stored if layer else (lambda w: w)
    weight = to_stored(stored)  # the layouts are each other's transpose or the same
    weight = reparametrised(weight, _reparams(placed))
    for item in placed:
        if not (isinstance(item.piece, Delta) and item.piece.changes_weight):
            continue
        change = item.piece.weight_delta().to(weight.dtype)
        if item.site.features is None:
            weight = weight + change
        else:
            start, stop = item.site.features
            pad = (0, 0) * (weight.dim() - 1)
            weight = weight + nn.functional.pad(change, (*pad, start, weight.shape[0] - stop))
    return to_stored(weight)


def rebiased_by(stored: Tensor, placed: Sequence[Placed]) -> Tensor:
    """Return a stored bias, [out], with what pieces change of it folded in."""
    bias = rebiased(stored, _reparams(placed))
    for item in placed:
        if isinstance(item.piece, Delta) and item.piece.changes_bias:
            change = item.piece.bias_delta().to(bias.dtype)
            start, stop = item.site.features or (0, len(bias))
            bias = bias + nn.functional.pad(change, (start, len(bias) - stop))
    return bias
