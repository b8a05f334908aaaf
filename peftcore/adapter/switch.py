"""Which adapters take part in a model's forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from peftcore.adapter.state import STATE, Attached, ModelState, state_of
from peftcore.errors import AttachError, UnknownName, nearest
from peftcore.method.pieces import Around, Transform
from peftcore.method.placed import Placed
from peftcore.run.program import Program


def switch(state: ModelState, names: tuple[str, ...]) -> None:
    """Make exactly these adapters active; only the modules that they touch are visited."""
    coming = [state.adapters[name] for name in names]
    _check_disjoint(coming)
    going = [state.adapters[n] for n in state.active if n in state.adapters]
    for adapter in going:
        for swap in adapter.swaps:
            swap.place(own=False)
    modules = {id(m): m for adapter in (*going, *coming) for m in adapter.modules_touched()}
    assert state.holder is not None
    for module in modules.values():
        by_name: dict[str, list[Placed]] = module._peftcore_placed  # type: ignore[assignment]
        items = [item for name in names for item in by_name.get(name, ())]
        program = Program(module, items, state.holder) if items else None
        module.__dict__["_peftcore_program"] = program
    for adapter in coming:
        for swap in adapter.swaps:
            swap.place(own=True)
    state.active = names
    state.holder.wanted = any(
        isinstance(item.piece, Transform | Around) for a in coming for item in a.placed
    )


def _check_disjoint(chosen: Sequence[Attached]) -> None:
    owners: dict[str, str] = {}
    for adapter in chosen:
        for swap in adapter.swaps:
            name = swap.selected.info.name
            if name in owners:
                raise AttachError(
                    f"adapters {owners[name]!r} and {adapter.name!r} both hold a value for {name};"
                    " only one of them can be active."
                )
            owners[name] = adapter.name


def activate(model: nn.Module, *names: str) -> None:
    """Make exactly these adapters active, in this order; none switches all off.

    Raises:
        UnknownName: the model has no adapter of that name.
        AttachError: two of them hold values for the same base parameter, or one is merged.
    """
    state = state_of(model)
    for name in names:
        if name not in state.adapters:
            raise UnknownName(
                f"this model has no adapter {name!r}.{nearest(name, state.adapters)}"
                f" It has: {', '.join(state.adapters)}."
            )
    if len(set(names)) < len(names):
        raise AttachError(f"an adapter is named twice: {', '.join(names)}.")
    if state.merged:
        raise AttachError(f"adapter {state.merged[-1][0]!r} is merged; unmerge it first.")
    switch(state, tuple(names))


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Switch all adapters off for a while; the outputs are the base's, bit for bit."""
    state = state_of(model)
    if state.merged:
        raise AttachError(f"adapter {state.merged[-1][0]!r} is merged; unmerge it first.")
    before = state.active
    switch(state, ())
    try:
        yield
    finally:
        switch(state, before)


@contextmanager
def base_only(model: nn.Module) -> Iterator[None]:
    """Let a plan see the base's parameters, whatever is active; a bare model is fine too."""
    if STATE not in model.__dict__ or state_of(model).merged:
        yield
        return
    with disabled(model):
        yield


@contextmanager
def prompt(model: nn.Module, lengths: Tensor) -> Iterator[None]:
    """Say for a while how many leading real tokens of each row are the prompt.

    ``generate`` knows by itself, and so does training with labels; this is for other calls.

    Args:
        model: a model with an adapter.
        lengths: [B] integers.
    """
    holder = state_of(model).holder
    assert holder is not None
    before, holder.lengths = holder.lengths, lengths
    try:
        yield
    finally:
        holder.lengths = before
