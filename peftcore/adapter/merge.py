"""Folding adapters into the weights, and giving the weights back exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from peftcore.adapter.state import Attached, state_of
from peftcore.adapter.switch import check_outside, switch
from peftcore.adapter.verify import verify
from peftcore.errors import AttachError, MergeError, UnknownName, nearest
from peftcore.method.placed import Placed
from peftcore.model.layers import Layer, layer_at
from peftcore.model.walk import ties
from peftcore.run.program import folded, rebiased_by
from peftcore.store.fingerprint import look

Tied = dict[str, list[str]]


@dataclass
class Change:
    """One parameter that an adapter changes when it is merged.

    Attributes:
        name: name of the parameter.
        module, leaf: where it is.
        make: makes its new value, in the dtype of the old one; of a new bias, in the layer's.
    """

    name: str
    module: nn.Module
    leaf: str
    make: Callable[[], Tensor]

    @property
    def value(self) -> Tensor | None:
        """The value that is there; None for a bias that the layer does not have yet."""
        parameter = self.module._parameters[self.leaf]
        return None if parameter is None else parameter.data

    def made(self) -> Tensor:
        """Return the new value.

        Raises:
            MergeError: it is not finite where the old one is.
        """
        new, old = self.make(), self.value
        if not bool(torch.isfinite(new).all()):
            finite = old is None or bool(torch.isfinite(old).all())
            if finite:
                raise MergeError(
                    f"{self.name} would hold NaN or infinite values: the adapter's are not finite,"
                    f" or too large for {new.dtype}. Nothing was merged; keep the adapter attached,"
                    " or load the base in a wider dtype."
                )
        return new


class Seen:
    """A merged value as it was written, for telling whether it is still the same."""

    def __init__(self, parameter: nn.Parameter):
        self.version = parameter._version
        self.dtype = parameter.dtype
        self.bits = _bits(parameter)
        self.some = look(parameter.detach()).values.clone()

    def still(self, parameter: nn.Parameter) -> bool:
        """Tell whether nobody has written to it; a model that was cast or moved has not."""
        if parameter._version != self.version:
            return False
        if parameter.dtype == self.dtype and _bits(parameter) == self.bits:
            return True
        now = look(parameter.detach()).values
        if now.shape != self.some.shape:
            return False
        # there and back again, it is rounded as the dtype between rounds
        between = {parameter.dtype, torch.float16, torch.bfloat16} - {self.dtype}
        return any(torch.equal(now, self.some.to(d).to(now.dtype)) for d in between)


def _bits(parameter: nn.Parameter) -> int:
    """Return a sum over the bits of all values, which one changed value changes."""
    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    whole = parameter.detach()
    return int(whole.contiguous().view(sizes[whole.element_size()]).sum(dtype=torch.int64))


class Undo:
    """What a merged parameter was, and how to tell whether anyone has touched it since."""

    def __init__(self, change: Change):
        self.change = change
        self.before = change.value
        new = change.made()
        parameter = change.module._parameters[change.leaf]
        if parameter is None:
            parameter = nn.Parameter(new, requires_grad=False)
            change.module._parameters[change.leaf] = parameter
        else:
            parameter.data = new
            increment_version(parameter)  # a graph that needs the value before fails, aloud
        self.parameter = parameter
        self.seen = Seen(parameter)

    @property
    def place(self) -> tuple[int, str]:
        """The module's id and the parameter's name in it."""
        return id(self.change.module), self.change.leaf

    def check(self) -> None:
        """Raise where the merged value is not there any more.

        Raises:
            MergeError: weights were loaded, replaced or written to while merged.
        """
        parameter = self.change.module._parameters.get(self.change.leaf)
        if parameter is self.parameter and self.seen.still(parameter):
            return
        raise MergeError(
            f"{self.change.name} was loaded, replaced or written to while an adapter was merged;"
            " unmerging would throw that away. Take the merge as final with"
            " peftcore.merge_and_unload, or load the base anew."
        )

    def __call__(self) -> None:
        """Give the parameter back, on the device and in the dtype that the model has by now."""
        if self.before is None:
            self.change.module._parameters[self.change.leaf] = None
        else:
            self.parameter.data = self.before.to(self.parameter.data)
            increment_version(self.parameter)


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
    """
    state = state_of(model)
    chosen, tied = _checked(model, names)
    verify(chosen)
    active = state.active
    switch(state, ())
    done: list[tuple[str, list[Undo]]] = []
    try:
        for adapter in chosen:
            undo: list[Undo] = []
            done.append((adapter.name, undo))
            undo.extend(map(Undo, _changes(adapter, tied)))
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
    _check_modules([state.adapters[name] for name, _ in state.merged])
    latest = {entry.place: entry for _, undo in state.merged for entry in undo}
    for entry in latest.values():
        entry.check()
    names = tuple(name for name, _ in state.merged)
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
    merged = tuple(name for name, _ in state.merged)
    if merged and names and set(names) != set(merged):
        raise MergeError(
            f"adapter {', '.join(merged)} is merged, and {', '.join(names)} is to be: unmerge"
            " first, or name none to make the merge final."
        )
    if not merged:
        chosen, tied = _checked(model, names)
        if len(chosen) > 1:
            merge(model, *[adapter.name for adapter in chosen])
        else:
            verify(chosen)
            active = state.active
            switch(state, ())
            try:
                for change in _changes(chosen[0], tied):
                    change.made()  # all are looked at before the first is written
            except BaseException:
                switch(state, active)
                raise
            for change in _changes(chosen[0], tied):
                Undo(change)
            state.statistics.put_in(chosen[0].statistics)
    state.merged.clear()
    state.statistics.base.clear()  # what is in the model stays there


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
        layer = _layer(item)
        if layer is None or not layer.writable or weight is None or not weight.is_floating_point():
            raise MergeError(
                f"{item.label} at {site.name} cannot be merged: a {type(site.module).__name__} has"
                " no weight that can be written without loss (quantised?)."
            )
        if item.piece.changes_weight:
            changing.setdefault(_name(item, site.weight_name), []).append(item)
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
        merged = _folded(stored.data, items)
        same = all(torch.equal(_folded(stored.data, changing[name]), merged) for name in names)
    if not same:
        raise MergeError(
            f"{items[0].label} at {site.name} cannot be merged: {names[0]} and {names[1]}"
            " are one tied parameter, and merging would change both. Untie them first: give one"
            " of the modules its own copy of the parameter."
        )


def _layer(item: Placed) -> Layer | None:
    return layer_at(item.site.module, item.site.weight_name)


def _name(item: Placed, leaf: str) -> str:
    return f"{item.site.path}.{leaf}".removeprefix(".")


def _changes(adapter: Attached, tied: Tied) -> Iterator[Change]:
    """Yield every parameter that an adapter changes, once."""
    for swap in adapter.swaps:
        module, leaf = swap.places[0]

        def own(swap: object = swap, module: nn.Module = module, leaf: str = leaf) -> Tensor:
            value: Tensor = swap.own.detach()  # type: ignore[attr-defined]
            there = module._parameters[leaf]
            assert there is not None
            return value.to(there.data, copy=True)

        yield Change(swap.selected.info.name, module, leaf, own)
    by_module: dict[tuple[int, str], list[Placed]] = {}
    for item in adapter.placed:
        by_module.setdefault((id(item.site.module), item.site.weight_name), []).append(item)
    folded_in: set[str] = set()  # tied parameters, all of whose places change in the same way
    for items in by_module.values():
        site = items[0].site
        name = _name(items[0], site.weight_name)
        if name not in folded_in and any(item.piece.changes_weight for item in items):
            folded_in.update(tied.get(name, ()))
            yield Change(name, site.module, site.weight_name, _weight_of(items))
        if any(item.piece.changes_bias for item in items) and (made := _bias_of(items)):
            yield Change(_name(items[0], site.bias_name), site.module, site.bias_name, made)


def _weight_of(items: list[Placed]) -> Callable[[], Tensor]:
    @torch.no_grad()
    def make() -> Tensor:
        parameter = items[0].site.module._parameters[items[0].site.weight_name]
        assert parameter is not None
        return _folded(parameter.data, items)

    return make


def _folded(stored: Tensor, items: list[Placed]) -> Tensor:
    changing = [item for item in items if item.piece.changes_weight]
    # a sum in bf16 loses more than the rounding of its result
    wide = torch.promote_types(stored.dtype, torch.float32)
    return folded(stored.to(wide), changing, _layer(items[0])).to(stored.dtype).contiguous()


def _bias_of(items: list[Placed]) -> Callable[[], Tensor] | None:
    """Return what makes the new bias; None where there is none that only a factor would change."""
    site = items[0].site
    module, leaf = site.module, site.bias_name
    changing = [item for item in items if item.piece.changes_bias]
    absent = module._parameters.get(leaf) is None
    if absent and all(item.piece.scales_bias for item in changing):
        return None

    @torch.no_grad()
    def make() -> Tensor:
        bias = module._parameters.get(leaf)
        if bias is None:
            layer = _layer(items[0])
            assert layer is not None
            wide = torch.promote_types(site.layer.dtype, torch.float32)
            width = layer.info(module).out_features
            zero = torch.zeros(width, dtype=wide, device=site.layer.device)
            return rebiased_by(zero, [i for i in changing if not i.piece.scales_bias]).to(
                site.layer.dtype
            )
        wide = torch.promote_types(bias.dtype, torch.float32)
        return rebiased_by(bias.data.to(wide), changing).to(bias.dtype)

    return make
