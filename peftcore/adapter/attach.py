"""Attaching adapters to a model, and giving the bare model back."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

from torch import nn

from peftcore.adapter.plan import Plan, Selected
from peftcore.adapter.state import STATE, Attached, ModelState, Swap, state_of
from peftcore.adapter.switch import switch
from peftcore.errors import AttachError
from peftcore.method.pieces import Around, Transform, changes_bias
from peftcore.method.placed import Placed
from peftcore.model.walk import base_modules
from peftcore.run.holder import ContextHolder
from peftcore.run.rewriting import put, restore, rewrite, take_out

A = TypeVar("A", bound=Attached)
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def check_name(model: nn.Module, name: str) -> None:
    """Raise AttachError where a name cannot be given to a new adapter on this model."""
    if not _NAME.fullmatch(name):
        raise AttachError(f"adapter name {name!r}: use letters, digits, - and _ only.")
    if STATE in model.__dict__ and name in state_of(model).adapters:
        raise AttachError(f"this model already has an adapter {name!r}; give another name.")


def apply(model: nn.Module, adapter: A) -> A:
    """Put an adapter on a model as its plan says; nothing of the model is changed if that fails."""
    name = adapter.name
    first = STATE not in model.__dict__
    state: ModelState = model.__dict__.setdefault(STATE, ModelState())
    if state.merged:
        raise AttachError(f"adapter {state.merged[-1][0]!r} is merged; unmerge it first.")
    try:
        if first:
            _freeze(model, state)
        state.adapters[name] = adapter
        _install(model, state, adapter)
        switch(state, (name,))
    except BaseException:
        remove(model, state, adapter)
        raise
    return adapter


def _freeze(model: nn.Module, state: ModelState) -> None:
    seen: set[int] = set()
    for _, module, _ in base_modules(model):
        for parameter in module._parameters.values():
            if parameter is not None and parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                state.frozen.append(parameter)
                parameter.requires_grad_(False)


def _install(model: nn.Module, state: ModelState, adapter: Attached) -> None:
    needs = [p for p in adapter.placed if isinstance(p.piece, Transform | Around)]
    holder = state.holder
    if holder is None:
        holder = state.holder = ContextHolder(adapter.plan.backbone)
    if needs and state.entry is None:
        state.entry = model.get_submodule(adapter.plan.backbone.entry(model))
        rewrite(state.entry, entry=holder)
    for item in adapter.placed:
        exposed = [item.site.weight_name] if item.site.direct else []
        if exposed and item.site.layer.bias and changes_bias(item.piece):
            exposed.append(item.site.bias_name)
        rewrite(item.site.module, exposed)
        put(item.site.module, adapter.name, item)
    for module in _checkpointed(adapter, needs):
        rewrite(module, carries=holder)
    for selected in adapter.plan.selected:
        adapter.swaps.append(Swap(selected, _places(adapter.plan, selected)))
    for swap in adapter.swaps:
        for module, leaf in swap.places:
            rewrite(module, (leaf,) if swap.own.dtype != swap.base.dtype else ())
            module._peftcore_placed.setdefault(adapter.name, [])  # type: ignore[union-attr, operator]
    adapter.plan.survey = None


def _checkpointed(adapter: Attached, needs: Iterable[Placed]) -> list[nn.Module]:
    """Return the modules that checkpoint their activations around pieces that use the context."""
    found: dict[int, nn.Module] = {}
    assert adapter.plan.survey is not None
    modules = adapter.plan.survey.modules
    for item in needs:
        path = item.site.path
        while True:
            module = modules[path]
            if hasattr(module, "gradient_checkpointing") and path:
                found[id(module)] = module
            if not path:
                break
            path = path.rpartition(".")[0]
    return list(found.values())


def _places(made: Plan, selected: Selected) -> list[tuple[nn.Module, str]]:
    assert made.survey is not None
    names = made.survey.tied.get(id(selected.info.parameter), [selected.info.name])
    places: dict[tuple[int, str], tuple[nn.Module, str]] = {}
    for name in names:
        path, _, leaf = name.rpartition(".")
        if path in made.survey.modules:
            module = made.survey.modules[path]
            places[id(module), leaf] = (module, leaf)
    return list(places.values())


def remove(model: nn.Module, state: ModelState, adapter: Attached) -> None:
    """Take one adapter off; with the last one the model is given back as it was."""
    if adapter.name in state.active:
        switch(state, tuple(n for n in state.active if n != adapter.name))
    state.adapters.pop(adapter.name, None)
    for module in adapter.modules_touched():
        placed: dict[str, list[Placed]] | None = module.__dict__.get("_peftcore_placed")
        if placed is None:
            continue
        if adapter.name in placed:
            take_out(module, adapter.name)
        if not placed and module is not state.entry:
            restore(module)
    adapter.model = None
    if not state.adapters:
        _give_back(model, state)


def _give_back(model: nn.Module, state: ModelState) -> None:
    for _, module, _ in base_modules(model):
        if "_peftcore_placed" in module.__dict__:
            restore(module)
    for parameter in state.frozen:
        parameter.requires_grad_(True)
    model.__dict__.pop(STATE, None)
