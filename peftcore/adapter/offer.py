"""Asking the chosen methods for their pieces, and checking what they return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from peftcore.errors import AttachError, TargetError
from peftcore.method.examples import Examples
from peftcore.method.method import Method, Methods
from peftcore.method.pieces import (
    Around,
    Delta,
    Piece,
    Reparam,
    Transform,
    has_weight_form,
    overrides,
    trainable_dtype,
)
from peftcore.method.placed import Placed
from peftcore.model.layers import has_forward_of_its_own, layer_of
from peftcore.model.sites import Site, Survey, check_shared


def prepare(
    methods: Methods,
    model: nn.Module,
    sites: Sequence[Site],
    examples: Examples | None,
    state: Mapping[str, Tensor] | None,
) -> None:
    """Let the methods look at the model and at examples before they are asked for pieces.

    Raises:
        AttachError: a method asks for examples and there are none.
    """
    for method in methods.methods:
        if not hasattr(method, "peftcore_prepare"):
            continue
        planned = state is not None or any(site.layer.device.type == "meta" for site in sites)
        wanted = 0 if planned else method.examples
        if wanted and examples is None:
            raise AttachError(
                f"{method.label} looks at {wanted} examples before it starts: give them as"
                " attach(..., examples=Examples(batches)), batches being the model's keyword"
                " arguments with labels."
            )
        seen = examples if wanted else None
        caller = methods.caller(method, "peftcore_prepare")
        caller(model=model, sites=sites, examples=seen, state=state)


def place(
    methods: Methods, found: Survey, sites: Sequence[Site], dtype: torch.dtype | None
) -> list[Placed]:
    """Offer every site to every method, and return the pieces that they want there.

    Raises:
        AttachError: a piece cannot act where a method wants it.
        TargetError: one method wants a fused layer and a slice of it.
    """
    placed: list[Placed] = []
    callers = [(m, methods.caller(m, "peftcore_rewrite_module")) for m in methods.methods]
    for site in sites:
        for method, caller in callers:
            for result in caller(site=site):
                pieces = result if isinstance(result, Mapping) else {"": result}
                for key, piece in pieces.items():
                    _check_piece(site, method, piece)
                    _settle(piece, site, dtype)
                    placed.append(Placed(site, method.label, key, piece))
    check_shared(found, [item.site for item in placed])
    _check_overlap(placed)
    return placed


def _check_overlap(placed: Sequence[Placed]) -> None:
    """Refuse one method on a fused layer and on a slice of it at once."""
    sliced = {(id(p.site.module), p.label) for p in placed if p.site.rows is not None}
    ends: dict[tuple[int, str], list[tuple[int, int, Site]]] = {}
    for item in placed:
        key = (id(item.site.module), item.label)
        if key in sliced:
            start, stop = item.site.rows or (0, item.site.layer.out_features)
            ends.setdefault(key, []).append((start, stop, item.site))
    for (_, label), spans in ends.items():
        spans.sort(key=lambda span: span[:2])
        for (_, stop, one), (start, _, two) in pairwise(spans):
            if start < stop and one.role != two.role:
                raise TargetError(
                    f"{label} would change {one.path} twice, as {one.role} and as {two.role}."
                    f" Leave one of them out: exclude: [{one.role}]."
                )


def _check_piece(site: Site, method: Method, piece: object) -> None:
    if not isinstance(piece, Piece) or type(piece) is Piece:
        raise AttachError(
            f"{method.name} returned a {type(piece).__name__} for {site.name}; a piece is a Delta,"
            " Reparam, Transform or Around."
        )
    if site.rows is not None and isinstance(piece, Transform | Around):
        raise AttachError(
            f"{method.name} cannot act at {site.name}: a {type(piece).__name__} edits a whole"
            " module, and this is a slice of one. Target the module."
        )
    if isinstance(piece, Reparam) and (layer := layer_of(site.module)):
        layer.weight(site.module)  # raises where it cannot be read
        given_up = not overrides(piece, "through") and not site.direct
        if given_up and has_forward_of_its_own(site.module):
            kind = type(site.module).__name__
            raise AttachError(
                f"{method.name} cannot act at {site.name}: a {kind} computes more than the"
                " layer that it is made from, and with another weight that would be lost."
                " Leave it out with exclude, or bring a handler of its type with"
                " peftcore_register_layers."
            )
    if site.direct and not (has_weight_form(piece) and not _only_bias(piece)):
        raise AttachError(
            f"{method.name} cannot act at {site.name}: the model reads the weight there and never"
            f" calls the layer, and {type(piece).__name__} is no change of a weight."
            " Leave it out with exclude."
        )


def _only_bias(piece: Piece) -> bool:
    return isinstance(piece, Delta) and overrides(piece, "bias_delta")


def _settle(piece: Piece, site: Site, dtype: torch.dtype | None) -> None:
    """Put a piece on the device of its layer, in the dtype that it is trained in."""
    want = dtype or trainable_dtype(site.layer.dtype)
    # most pieces have no submodules, and walking modules is slow when there are thousands
    tensors = piece.state_dict().values() if piece._modules else _own_tensors(piece)
    for tensor in tensors:
        wrong_dtype = tensor.is_floating_point() and tensor.dtype != want
        if wrong_dtype or tensor.device != site.layer.device:
            piece.to(device=site.layer.device, dtype=want)
            break
    piece.__dict__["_dtype"] = want


def _own_tensors(piece: Piece) -> list[torch.Tensor]:
    return [t for t in (*piece._parameters.values(), *piece._buffers.values()) if t is not None]
