"""Folding adapters into the weights, and giving the weights back exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from peftcore.adapter.changes import (
    Change,
    Tied,
    Undo,
    folded_into,
    folds,
    handler_of,
    name_of,
    values,
)
from peftcore.adapter.state import Attached, state_of
from peftcore.adapter.switch import check_outside, check_together, switch
from peftcore.adapter.verify import verify
from peftcore.errors import AttachError, MergeError, UnknownName, nearest
from peftcore.method.placed import Placed
from peftcore.model.layers import has_forward_of_its_own
from peftcore.model.walk import ties


def merge(model: nn.Module, *names: str) -> None:
    """Fold adapters into the base's weights, so that they cost nothing in a forward pass.

    The weights as they were are kept, so that :func:`unmerge` is exact. While an adapter is merged
    no adapter is active and none can be attached or activated.

    Args:
        model: a model with adapters.
        names: adapters to merge, in order; the active ones where none is named.

    Raises:
        MergeError: a piece is no change of a weight, a weight is tied or quantised, or a merged
            value would not be finite. Nothing has been changed then.
        AttachError: two of the adapters hold values for the same base parameter.
    """
    state = state_of(model)
    chosen, tied = _checked(model, names)
    verify(chosen)
    active = state.active
    switch(state, ())
    done: list[tuple[str, list[Undo]]] = []
    try:
        for name, changes in _in_order(chosen, tied):
            undo: list[Undo] = []
            done.append((name, undo))
            undo.extend(map(Undo, changes))
    except BaseException:
        for _, entries in reversed(done):
            _undo(entries)
        switch(state, active)
        raise
    for adapter in chosen:
        state.statistics.put_in(adapter.statistics)
    state.merged.extend(done)
    state.holder.generation += 1


def unmerge(model: nn.Module) -> None:
    """Undo :func:`merge`: the weights are as they were, bit for bit, and the adapters active.

    Raises:
        MergeError: no adapter is merged, or merged weights were loaded or written to since.
    """
    state = state_of(model)
    check_outside(state, "unmerge")
    if not state.merged:
        raise MergeError("no adapter is merged.")
    _check_modules([state.adapters[name] for name in dict(state.merged)])
    latest = {entry.place: entry for _, undo in state.merged for entry in undo}
    for entry in latest.values():
        entry.check()
    names = tuple(dict.fromkeys(name for name, _ in state.merged))
    state.holder.generation += 1
    for _, undo in reversed(state.merged):
        _undo(undo)
    state.merged.clear()
    moved = state.statistics.take_out()
    for name in names:
        state.adapters[name].statistics = moved
    switch(state, names)


def _check_modules(adapters: Sequence[Attached]) -> None:
    try:
        verify(adapters)
    except AttachError as error:
        raise MergeError(
            "a module was replaced while an adapter was merged, so that unmerging would not reach"
            " all that was merged. Put the module back, or take the merge as final with"
            " peftcore.merge_and_unload."
        ) from error


def merge_for_good(model: nn.Module, names: Sequence[str]) -> None:
    """Fold adapters into the weights and forget the weights as they were, one after another.

    No second copy of the model is held at any moment.

    Raises:
        MergeError: as :func:`merge`. Nothing has been changed then.
    """
    state = state_of(model)
    merged = tuple(dict.fromkeys(name for name, _ in state.merged))
    if merged and names and set(names) != set(merged):
        raise MergeError(
            f"adapter {', '.join(merged)} is merged, and {', '.join(names)} is to be: unmerge"
            " first, or name none to make the merge final."
        )
    if not merged:
        chosen, tied = _checked(model, names)
        verify(chosen)
        active = state.active
        switch(state, ())
        chains: dict[int | tuple[int, str], list[Change]] = {}
        for _, changes in _in_order(chosen, tied):
            for change in changes:
                parameter = change.module._parameters[change.leaf]
                place = (id(change.module), change.leaf) if parameter is None else id(parameter)
                chains.setdefault(place, []).append(change)
        try:
            for chain in chains.values():
                _after(chain)  # all are looked at before the first is written
        except BaseException:
            switch(state, active)
            raise
        for chain in chains.values():
            chain[0].write(_after(chain))
        for adapter in chosen:
            state.statistics.put_in(adapter.statistics)
    state.merged.clear()
    state.statistics.base.clear()  # what is in the model stays there


def _in_order(adapters: Sequence[Attached], tied: Tied) -> Iterator[tuple[str, Iterator[Change]]]:
    """Yield what adapters change, with their names: the base's values, then pieces on them."""
    for adapter in adapters:
        yield adapter.name, values(adapter)
    for adapter in adapters:
        yield adapter.name, folds(adapter, tied)


def _after(changes: Sequence[Change]) -> Tensor | None:
    """Return the value of one parameter after several changes; None where there is none."""
    value = changes[0].value
    for change in changes:
        value = change.made(value)
    return value


def _undo(entries: Sequence[Undo]) -> None:
    for entry in reversed(entries):
        entry()


def _checked(model: nn.Module, names: Sequence[str]) -> tuple[list[Attached], Tied]:
    """Return the adapters to merge and the tied parameters, after all checks but of values."""
    state = state_of(model)
    check_outside(state, "merge")
    if state.merged:
        raise MergeError(f"adapter {state.merged[-1][0]!r} is merged already; unmerge it first.")
    chosen = [_named(model, name) for name in names or state.active]
    if not chosen:
        raise MergeError("no adapter is active; name the one to merge.")
    check_together(chosen)
    tied = ties(model)
    for adapter in chosen:
        _check(adapter, tied)
    return chosen, tied


def _named(model: nn.Module, name: str) -> Attached:
    known = state_of(model).adapters
    if name not in known:
        raise UnknownName(f"this model has no adapter {name!r}.{nearest(name, known)}")
    return known[name]


def _check(adapter: Attached, tied: Tied) -> None:
    changing: dict[str, list[Placed]] = {}
    for item in adapter.placed:
        site, kind = item.site, type(item.piece).__name__
        if not item.piece.is_change():
            raise MergeError(
                f"{item.label} at {site.name} cannot be merged: {kind} is no change of a weight."
                " Keep the adapter attached instead."
            )
        weight = site.module._parameters.get(site.weight_name)
        layer = handler_of(item)
        if layer is None or not layer.writable or weight is None or not weight.is_floating_point():
            raise MergeError(
                f"{item.label} at {site.name} cannot be merged: a {type(site.module).__name__} has"
                " no weight that can be written without loss (quantised?). Keep the adapter"
                " attached, or load the base without quantisation, and the adapter onto it."
            )
        if not site.direct and has_forward_of_its_own(site.module):
            raise MergeError(
                f"{item.label} at {site.name} cannot be merged: a {type(site.module).__name__}"
                " computes more than the layer that it is made from. Keep the adapter attached, or"
                " bring a handler of its type with peftcore_register_layers."
            )
        if weight.is_meta:
            raise MergeError(
                f"{item.label} at {site.name} cannot be merged: the weight is on the meta device,"
                " offloaded by accelerate perhaps. Load the base without offloading, and the"
                " adapter onto it."
            )
        if item.piece.changes_weight:
            changing.setdefault(name_of(item, site.weight_name), []).append(item)
    for name, items in changing.items():
        if name in tied:
            _check_tied(items, tied[name], changing)


@torch.no_grad()
def _check_tied(items: list[Placed], names: list[str], changing: dict[str, list[Placed]]) -> None:
    """Refuse to merge into a tied parameter, unless all its places change in the same way."""
    site = items[0].site
    stored = site.module._parameters[site.weight_name]
    assert stored is not None
    same = all(name in changing for name in names)
    if same:
        merged = folded_into(stored.data, items)
        same = all(torch.equal(folded_into(stored.data, changing[name]), merged) for name in names)
    if not same:
        raise MergeError(
            f"{items[0].label} at {site.name} cannot be merged: {names[0]} and {names[1]}"
            " are one tied parameter, and merging would change both. Untie them first: give one"
            " of the modules its own copy of the parameter."
        )
