"""Folding adapters into the weights, and giving the weights back exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from peftcore.adapter.state import Attached, state_of
from peftcore.adapter.switch import check_outside, switch
from peftcore.errors import MergeError, UnknownName, nearest
from peftcore.method.pieces import Delta, Reparam
from peftcore.method.placed import Placed
from peftcore.model.layers import InProjection, Layer, layer_of
from peftcore.model.walk import ties
from peftcore.run.program import folded, rebiased


@dataclass
class Undo:
    """How one parameter was before a merge; ``before`` None means that it did not exist."""

    module: nn.Module
    leaf: str
    before: Tensor | None

    def __call__(self) -> None:
        """Give the parameter back."""
        if self.before is None:
            self.module._parameters[self.leaf] = None
        else:
            parameter = self.module._parameters[self.leaf]
            assert parameter is not None
            parameter.data = self.before


def merge(model: nn.Module, *names: str) -> None:
    """Fold adapters into the base's weights, so that they cost nothing in a forward pass.

    The weights as they were are kept, so that :func:`unmerge` is exact. While an adapter is merged
    no adapter is active and none can be attached or activated.

    Args:
        model: a model with adapters.
        names: adapters to merge, in order; the active ones where none is named.

    Raises:
        MergeError: a piece is no change of a weight, or a weight is tied or quantised. Nothing has
            been changed then.
    """
    state = state_of(model)
    check_outside(state, "merge")
    if state.merged:
        raise MergeError(f"adapter {state.merged[-1][0]!r} is merged already; unmerge it first.")
    chosen = [_named(model, name) for name in names or state.active]
    if not chosen:
        raise MergeError("no adapter is active; name the one to merge.")
    tied = ties(model)
    for adapter in chosen:
        _check(adapter, tied)
    switch(state, ())
    done: list[tuple[str, list[Undo]]] = []
    try:
        for adapter in chosen:
            undo: list[Undo] = []
            done.append((adapter.name, undo))
            _fold(adapter, undo, tied)
    except BaseException:
        for _, entries in reversed(done):
            _undo(entries)
        switch(state, tuple(a.name for a in chosen))
        raise
    state.merged.extend(done)


def unmerge(model: nn.Module) -> None:
    """Undo :func:`merge`: the weights are as they were, bit for bit, and the adapters active."""
    state = state_of(model)
    check_outside(state, "unmerge")
    if not state.merged:
        raise MergeError("no adapter is merged.")
    names = tuple(name for name, _ in state.merged)
    for _, undo in reversed(state.merged):
        _undo(undo)
    state.merged.clear()
    switch(state, names)


def _undo(entries: Sequence[Undo]) -> None:
    for entry in reversed(entries):
        entry()


def _named(model: nn.Module, name: str) -> Attached:
    known = state_of(model).adapters
    if name not in known:
        raise UnknownName(f"this model has no adapter {name!r}.{nearest(name, known)}")
    return known[name]


def _check(adapter: Attached, tied: dict[str, list[str]]) -> None:
    changing: dict[str, list[Placed]] = {}
    for item in adapter.placed:
        site, kind = item.site, type(item.piece).__name__
        if not item.piece.is_change():
            raise MergeError(
                f"{item.label} at {site.name} cannot be merged: {kind} is no change of a weight."
                " Keep the adapter attached instead."
            )
        weight = site.module._parameters.get(site.weight_name)
        layer = _layer(item)
        if layer is None or not layer.writable or weight is None or not weight.is_floating_point():
            raise MergeError(
                f"{item.label} at {site.name} cannot be merged: a {type(site.module).__name__} has"
                " no weight that can be written without loss (quantised?)."
            )
        if item.piece.changes_weight:
            changing.setdefault(_name_of(item), []).append(item)
    for name, items in changing.items():
        if name in tied:
            _check_tied(name, items, tied[name], changing)


def _name_of(item: Placed) -> str:
    return f"{item.site.path}.{item.site.weight_name}".removeprefix(".")


@torch.no_grad()
def _check_tied(
    name: str, items: list[Placed], names: list[str], changing: dict[str, list[Placed]]
) -> None:
    """Refuse to merge into a tied parameter, unless all its places change in the same way."""
    module = items[0].site.module
    stored = module._parameters[items[0].site.weight_name]
    assert stored is not None
    missing = next((other for other in names if other not in changing), None)
    same = missing is None
    if same:
        merged = _folded_in_fp32(stored.data, items)
        same = all(
            torch.equal(_folded_in_fp32(stored.data, changing[other]), merged) for other in names
        )
    if not same:
        raise MergeError(
            f"{items[0].label} at {items[0].site.name} cannot be merged: {names[0]} and {names[1]}"
            " are one tied parameter, and merging would change both. Untie them first: give one"
            " of the modules its own copy of the parameter."
        )


def _layer(item: Placed) -> Layer | None:
    if item.site.weight_name == InProjection.weight_name:
        return InProjection()
    return layer_of(item.site.module)


@torch.no_grad()
def _fold(adapter: Attached, undo: list[Undo], tied: dict[str, list[str]]) -> None:
    for swap in adapter.swaps:
        undo.append(Undo(*swap.places[0], swap.base.data))
        swap.base.data = swap.own.detach().to(swap.base, copy=True)
    by_weight: dict[tuple[int, str], list[Placed]] = {}
    for item in adapter.placed:
        by_weight.setdefault((id(item.site.module), item.site.weight_name), []).append(item)
    folded_in: set[str] = set()  # tied parameters, all of whose places change in the same way
    for items in by_weight.values():
        name = _name_of(items[0])
        if name not in folded_in:
            _fold_weight(items, undo)
            folded_in.update(tied.get(name, ()))
        _rebias(items, undo)
        for item in items:
            if isinstance(item.piece, Delta) and item.piece.changes_bias:
                _fold_bias(item, undo)


def _fold_weight(items: list[Placed], undo: list[Undo]) -> None:
    changing = [item for item in items if item.piece.changes_weight]
    if not changing:
        return
    module, name = changing[0].site.module, changing[0].site.weight_name
    parameter = module._parameters[name]
    assert parameter is not None
    merged = _folded_in_fp32(parameter.data, changing)
    undo.append(Undo(module, name, parameter.data))
    parameter.data = merged


def _folded_in_fp32(stored: Tensor, items: list[Placed]) -> Tensor:
    # a sum in bf16 loses more than the rounding of its result
    wide = torch.promote_types(stored.dtype, torch.float32)
    return folded(stored.to(wide), items, _layer(items[0])).to(stored.dtype).contiguous()


def _rebias(items: list[Placed], undo: list[Undo]) -> None:
    site = items[0].site
    bias = site.module._parameters.get(site.bias_name)
    reparams = [(i.piece, i.site.features) for i in items if isinstance(i.piece, Reparam)]
    if bias is None or not any(piece.changes_bias for piece, _ in reparams):
        return
    undo.append(Undo(site.module, site.bias_name, bias.data))
    wide = torch.promote_types(bias.dtype, torch.float32)
    bias.data = rebiased(bias.data.to(wide), reparams).to(bias.dtype)


def _fold_bias(item: Placed, undo: list[Undo]) -> None:
    assert isinstance(item.piece, Delta)
    module, site = item.site.module, item.site
    change = item.piece.bias_delta().detach()
    bias = module._parameters.get("bias")
    if bias is None:
        whole = change
        if site.features is not None:
            layer = _layer(item)
            assert layer is not None
            whole = change.new_zeros(layer.info(module).out_features)
            whole[site.features[0] : site.features[1]] = change
        dtype = site.layer.dtype
        module._parameters["bias"] = nn.Parameter(whole.to(dtype), requires_grad=False)
        undo.append(Undo(module, "bias", None))
        return
    merged = bias.data.clone()
    rows = slice(*site.features) if site.features else slice(None)
    merged[rows] += change.to(merged.dtype)
    undo.append(Undo(module, "bias", bias.data))
    bias.data = merged
