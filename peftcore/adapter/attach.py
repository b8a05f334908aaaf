"""Attaching adapters to a model, and giving the bare model back."""

from __future__ import annotations

import re
from typing import TypeVar

from torch import nn

from peftcore.adapter.plan import Plan
from peftcore.adapter.selecting import Selected
from peftcore.adapter.state import STATE, Attached, ModelState, Swap
from peftcore.adapter.statistics import Statistics
from peftcore.adapter.switch import check_outside, check_unmerged, make_entry, note_values, switch
from peftcore.adapter.watch import Watch
from peftcore.errors import AttachError
from peftcore.model.offloading import offloads
from peftcore.model.survey import Survey
from peftcore.model.walk import base_modules
from peftcore.run.holder import ContextHolder
from peftcore.run.rewriting import put, restore, rewrite, take_out
from peftcore.run.seat import SEAT, Seat

A = TypeVar("A", bound=Attached)
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def check_free(model: nn.Module, name: str, what: str) -> None:
    """Raise AttachError where no new adapter of a name can be put on this model now.

    Args:
        model: the model.
        name: of the new adapter.
        what: what is to be done, such as ``attach``.
    """
    if not _NAME.fullmatch(name):
        raise AttachError(f"adapter name {name!r}: use letters, digits, - and _ only.")
    state: ModelState | None = model.__dict__.get(STATE)
    if state is None:
        return
    if name in state.adapters:
        raise AttachError(f"this model already has an adapter {name!r}; give another name.")
    check_outside(state, what)
    check_unmerged(state)


def apply(model: nn.Module, adapter: A) -> A:
    """Put an adapter on a model as its plan says; nothing of the model is changed if that fails."""
    state: ModelState | None = model.__dict__.get(STATE)
    if state is None:
        state = model.__dict__[STATE] = ModelState(
            ContextHolder(adapter.plan.backbone), Statistics(adapter.plan.survey.modules)
        )
    try:
        if not state.adapters:
            _freeze(adapter.plan.survey, state)
        state.adapters[adapter.name] = adapter
        _install(model, state, adapter)
        switch(state, (adapter.name,))
    except BaseException:
        remove(model, state, adapter)
        raise
    state.holder.first_run = Watch(adapter)
    return adapter


def _freeze(found: Survey, state: ModelState) -> None:
    for module in found.modules.values():
        for leaf, parameter in module._parameters.items():
            # a parameter that was frozen a moment ago requires no gradient any more
            if parameter is not None and parameter.requires_grad:
                state.frozen.append((module, leaf, parameter))
                parameter.requires_grad_(False)


def _install(model: nn.Module, state: ModelState, adapter: Attached) -> None:
    holder, plan = state.holder, adapter.plan
    if not state.entries and (adapter.uses_context or adapter.keeps):
        make_entry(model, state, plan.backbone)
    for item in plan.placed:
        exposed = [item.site.weight_name] if item.site.direct else []
        if exposed and item.site.layer.bias and item.piece.changes_bias:
            exposed.append(item.site.bias_name)
        rewrite(item.site.module, holder, exposed)
        put(item.site.module, adapter.name, item)
    for module in _checkpointed(adapter):
        rewrite(module, holder, carries=True)
    for selected in plan.selected:
        adapter.swaps.append(Swap(selected, _places(plan, selected)))
    for swap in adapter.swaps:
        for module, leaf in swap.places:
            seat = rewrite(module, holder, (leaf,) if swap.own.dtype != swap.base.dtype else ())
            seat.placed.setdefault(adapter.name, [])
            seat.parked.setdefault(adapter.name, []).append(swap)


def _checkpointed(adapter: Attached) -> list[nn.Module]:
    """Return the modules that checkpoint their activations around pieces of the adapter."""
    found: dict[int, nn.Module] = {}
    modules = adapter.plan.survey.modules
    seen: set[str] = set()
    for item in adapter.placed:
        path = item.site.path
        while path and path not in seen:
            seen.add(path)
            module = modules[path]
            # hasattr of a module is slow where there is no such attribute
            own = "gradient_checkpointing" in module.__dict__
            if own or hasattr(type(module), "gradient_checkpointing"):
                found[id(module)] = module
            path = path.rpartition(".")[0]
    return list(found.values())


def _places(made: Plan, selected: Selected) -> list[tuple[nn.Module, str]]:
    names = made.survey.tied.get(selected.info.name, [selected.info.name])
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
    state.holder.generation += 1
    note_values(state)
    for module in adapter.modules_touched():
        seat: Seat | None = module.__dict__.get(SEAT)
        if seat is None:
            continue
        if adapter.name in seat.placed:
            take_out(module, adapter.name)
        if not seat.placed and not any(module is entry for entry in state.entries):
            restore(module)
    adapter.model = None
    if not state.adapters:
        _give_back(model, state)


def _give_back(model: nn.Module, state: ModelState) -> None:
    for _, module, _ in base_modules(model):
        if SEAT in module.__dict__:
            restore(module)
    state.statistics.take_out()
    for module, leaf, parameter in state.frozen:
        parameter.requires_grad_(True)
        there = module._parameters.get(leaf)
        if there is not None and there is not parameter and offloads(module):
            there.requires_grad_(True)  # each call of an offloaded module makes a new one
    model.__dict__.pop(STATE, None)
