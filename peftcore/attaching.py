"""Attaching adapters to a model, and giving the bare model back."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from peftcore.adapter import STATE, Adapter, ModelState, Swap, adapters, state_of
from peftcore.context import ContextHolder
from peftcore.errors import AttachError, UnknownName
from peftcore.examples import Examples
from peftcore.methods import MethodChoice
from peftcore.pieces import Around, Transform, changes_bias
from peftcore.planning import Plan, Selected, make_plan
from peftcore.programs import Placed
from peftcore.rewriting import put, restore, rewrite, take_out
from peftcore.sites import base_modules
from peftcore.switching import base_only, switch

_NAME = re.compile(r"[A-Za-z0-9_-]+")


def attach(
    model: nn.Module,
    methods: MethodChoice | Sequence[MethodChoice],
    *,
    name: str = "default",
    backbone: str | None = None,
    modules_to_save: Sequence[str] = (),
    save_frozen: Sequence[str] = (),
    dtype: torch.dtype | None = None,
    examples: Examples | None = None,
    **config: Any,
) -> Adapter:
    """Put an adapter on a model, in place, and make it the active one.

    The whole plan is made and checked before the first change; if anything is wrong the model
    stays as it was. The base's parameters are frozen until the last adapter is detached.

    Args:
        model: any module.
        methods: a method's name with its configuration as keywords, or a list of names and
            mappings ``{"method": name, ...}``. An empty list trains ``modules_to_save`` alone.
        name: name of the adapter on this model.
        backbone: name of the backbone plugin; found from the model where it is not given.
        modules_to_save: roles or ``path:`` globs of modules that are trained whole.
        save_frozen: the same for modules that are stored with the adapter but not trained.
        dtype: dtype of the pieces' tensors; at least fp32 where it is not given.
        examples: data for methods whose start depends on it.
        config: configuration of the one method.

    Raises:
        ConfigError: a configuration is wrong or a target matches nothing; all problems at once.
        UnknownName: no installed plugin provides a method.
        AttachError: the name is taken, or a piece cannot act where it is asked to.

    Example:
        >>> model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, 16), 2)
        >>> adapter = attach(model, "lora", rank=2, targets=["linear"])  # doctest: +SKIP
    """
    check_name(model, name)
    with _collector_paused():
        with base_only(model):
            made = make_plan(
                model, methods, config, backbone, modules_to_save, save_frozen,
                dtype=dtype, examples=examples,
            )  # fmt: skip
        if not made.placed and not made.selected:
            raise AttachError("nothing to attach: no method and no modules_to_save.")
        return apply(model, made, name)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep the garbage collector from walking thousands of new objects again and again."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def check_name(model: nn.Module, name: str) -> None:
    """Raise AttachError where a name cannot be given to a new adapter on this model."""
    if not _NAME.fullmatch(name):
        raise AttachError(f"adapter name {name!r}: use letters, digits, - and _ only.")
    if name in adapters(model):
        raise AttachError(f"this model already has an adapter {name!r}; give another name.")


def apply(model: nn.Module, made: Plan, name: str) -> Adapter:
    """Carry out a plan; nothing of the model is changed if that fails."""
    adapter = Adapter(name, model, made)
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
        _remove(model, state, adapter)
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


def _install(model: nn.Module, state: ModelState, adapter: Adapter) -> None:
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


def _checkpointed(adapter: Adapter, needs: Iterable[Placed]) -> list[nn.Module]:
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


def detach(model: nn.Module, *names: str) -> None:
    """Take adapters off, all of them where none is named.

    With the last one the model is as it was before the first: classes, parameters, and what
    required a gradient.
    """
    state = state_of(model)
    if state.merged:
        from peftcore.merging import unmerge

        unmerge(model)
    for name in names or tuple(state.adapters):
        if name not in state.adapters:
            raise UnknownName(f"this model has no adapter {name!r}.")
        _remove(model, state, state.adapters[name])


def _remove(model: nn.Module, state: ModelState, adapter: Adapter) -> None:
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
