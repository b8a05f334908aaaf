"""Which adapters take part in a forward: of all threads, and inside blocks of one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from peftcore.adapter.state import STATE, Attached, ModelState, state_of
from peftcore.errors import AttachError, UnknownName, nearest
from peftcore.model.backbones import Backbone
from peftcore.run.holder import Block, Setting, owner
from peftcore.run.program import program_of
from peftcore.run.rewriting import rewrite
from peftcore.run.seat import seat_of
from peftcore.run.settings import Chosen


def switch(state: ModelState, names: tuple[str, ...]) -> None:
    """Make exactly these adapters active; only the modules that they touch are visited."""
    coming = [state.adapters[name] for name in names]
    check_together(coming)
    going = [state.adapters[n] for n in state.active if n in state.adapters]
    put_in(state, going, own=False)
    for module in modules_of((*going, *coming)):
        seat = seat_of(module)
        items = [item for name in names for item in seat.placed.get(name, ())]
        seat.program = program_of(module, items, state.holder) if items else None
    put_in(state, coming, own=True)
    state.active = names
    state.holder.setting = _chosen(state, coming)


def put_in(state: ModelState, adapters: Sequence[Attached], *, own: bool) -> None:
    """Put the adapters' own parameters and statistics, or the base's, into the modules."""
    if not own and state.statistics and adapters:
        # several active adapters have trained on the same statistics
        moved = state.statistics.take_out()
        for adapter in adapters:
            adapter.statistics = moved
    if own and state.statistics:
        state.statistics.take_out()  # what moved while no adapter was active is nobody's
    for adapter in adapters:
        for swap in adapter.swaps:
            swap.put_in(own=own)
        if own:
            state.statistics.put_in(adapter.statistics)
        adapter.is_in = own and state.swaps(adapter)
    note_values(state)


def note_values(state: ModelState) -> None:
    """Note which adapters have values in the base's place, and whose are in the modules."""
    having = [a for a in state.adapters.values() if a.swaps or a.statistics]
    state.holder.having = frozenset(a.name for a in having)
    state.holder.present = frozenset(a.name for a in having if a.is_in)


def modules_of(adapters: Sequence[Attached]) -> list[nn.Module]:
    """Return the modules that adapters touch, once each."""
    return list({id(m): m for adapter in adapters for m in adapter.modules_touched()}.values())


def check_together(chosen: Sequence[Attached]) -> None:
    """Refuse adapters that hold values for one base parameter, or one that goes with no other."""
    alone = ((a, m) for a in chosen for m in a.methods if not m.composes)
    for adapter, method in alone if len(chosen) > 1 else ():
        raise AttachError(
            f"{method.name} of adapter {adapter.name!r} goes with no other method; activate it"
            " alone."
        )
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


def adapters_named(state: ModelState, names: Sequence[str]) -> list[Attached]:
    """Return adapters of a model by name.

    Raises:
        UnknownName: the model has no adapter of a name.
    """
    for name in names:
        if name not in state.adapters:
            has = f"It has: {', '.join(state.adapters)}." if state.adapters else "It has none."
            raise UnknownName(
                f"this model has no adapter {name!r}.{nearest(name, state.adapters)} {has}"
            )
    return [state.adapters[name] for name in names]


def check_names(state: ModelState, names: Sequence[str]) -> list[Attached]:
    """Return adapters by name; refuse unknown names, and any name while one is merged."""
    found = adapters_named(state, names)
    check_unmerged(state)
    return found


def check_unmerged(state: ModelState) -> None:
    """Refuse what cannot be done while an adapter is merged."""
    if state.merged:
        raise AttachError(f"adapter {state.merged[-1][0]!r} is merged; unmerge it first.")


def check_outside(state: ModelState, what: str) -> None:
    """Refuse what cannot be done while a block is open, in whatever thread.

    Args:
        state: of the model.
        what: what is to be done, such as ``attach``.
    """
    if state.holder.blocks:
        raise AttachError(
            f"{what} inside of route(...) or disabled(...): leave the block first, which would"
            " otherwise give back what is not there any more."
        )


def activate(model: nn.Module, *names: str) -> None:
    """Make exactly these adapters active, in this order; none switches all off.

    Inside of ``route`` or ``disabled`` it holds until that block is left.

    Raises:
        UnknownName: the model has no adapter of that name.
        AttachError: two of them hold values for the same base parameter, the method of one goes
            with no other, or one is merged.
    """
    state = state_of(model)
    check_names(state, names)
    if len(set(names)) < len(names):
        raise AttachError(f"an adapter is named twice: {', '.join(names)}.")
    block = state.holder.block()
    if block is None:
        check_alone(state, [state.adapters[n] for n in (*state.active, *names)])
        switch(state, tuple(names))
        return
    chosen = [state.adapters[name] for name in names]
    check_together(chosen)
    check_alone(state, chosen)
    block.setting = _chosen(state, chosen)
    settle(state)


def _chosen(state: ModelState, adapters: Sequence[Attached]) -> Chosen:
    """Return the setting in which the same adapters serve all rows."""
    return Chosen(
        [adapter.name for adapter in adapters],
        state.holder,
        **wanted_by(adapters),
    )


def make_entry(model: nn.Module, state: ModelState, backbone: Backbone) -> None:
    """Let the calls of a model's entry be seen, from which the context of each is read.

    So are those of its stacks, where they have contexts of their own.
    """
    entry, stacks = model.get_submodule(backbone.entry(model)), backbone.entries(model)
    rewrite(entry, state.holder, enters=True, stack="" if stacks else None)
    state.entries = (entry, *(model.get_submodule(path) for path in stacks.values()))
    for name, module in zip(stacks, state.entries[1:], strict=True):
        rewrite(module, state.holder, stack=name)


def wanted_by(adapters: Sequence[Attached]) -> dict[str, Any]:
    """Return what the pieces of adapters want of a call, for the setting that runs them."""
    return {
        "wanted": any(adapter.uses_context for adapter in adapters),
        "needs": {need: who for adapter in adapters for need, who in adapter.needs.items()},
        "stack_needs": {
            stack: {n: who for a in adapters for n, who in a.stack_needs.get(stack, {}).items()}
            for stack in {stack for adapter in adapters for stack in adapter.stack_needs}
        },
    }


def check_alone(state: ModelState, adapters: Sequence[Attached]) -> None:
    """Refuse to change base parameters beside a block of another thread or task."""
    if not any(block.owner != owner() for block in state.holder.blocks):
        return
    moved = state.statistics.moved()
    holding = next(
        (
            a
            for a in (*adapters, *state.swapped())
            if a.swaps or a.statistics or (a.is_in and moved)
        ),
        None,
    )
    if holding is not None:
        raise AttachError(
            f"adapter {holding.name!r} holds values of its own for base parameters, which all"
            " threads share, and another thread or task is in route(...) or disabled(...). Serve"
            " such adapters from one thread."
        )


def settle(state: ModelState) -> None:
    """Let the values in the modules be those that the open blocks ask for."""
    block = state.holder.blocks[-1] if state.holder.blocks else None
    setting = None if block is None else block.setting
    names = state.active if block is None else setting.names if isinstance(setting, Chosen) else ()
    wanted = [a for n in names if (a := state.adapters.get(n)) is not None and state.swaps(a)]
    have = state.swapped()
    if [a.name for a in wanted] != [a.name for a in have]:
        put_in(state, have, own=False)
        put_in(state, wanted, own=True)


@contextmanager
def opened(state: ModelState, setting: Setting, adapters: Sequence[Attached]) -> Iterator[Block]:
    """Open a block of this thread or task, and leave it as it was found.

    Args:
        state: of the model.
        setting: what runs inside.
        adapters: those that it runs.

    Raises:
        AttachError: base parameters would change under another thread.
    """
    check_alone(state, adapters)
    block = state.holder.enter(setting)
    try:
        settle(state)
        yield block
    finally:
        state.holder.leave(block)
        settle(state)


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Switch all adapters off for a while; the outputs are the base's, bit for bit.

    It holds for this thread or asyncio task, and nests with ``route`` and itself in any order.

    Raises:
        AttachError: an adapter is merged.
    """
    state = state_of(model)
    check_unmerged(state)
    with opened(state, _chosen(state, ()), ()):
        yield


@contextmanager
def base_only(model: nn.Module) -> Iterator[None]:
    """Let a plan see the base's parameters, whatever is active; a bare model is fine too."""
    state: ModelState | None = model.__dict__.get(STATE)
    if state is None or state.merged:
        yield
        return
    active = state.active
    switch(state, ())
    try:
        yield
    finally:
        switch(state, active)


@contextmanager
def prompt(model: nn.Module, lengths: Tensor) -> Iterator[None]:
    """Say for a while how many leading real tokens of each row are the prompt.

    ``generate`` knows by itself, and so does training with labels; this is for other calls.

    Args:
        model: a model with an adapter.
        lengths: [B] integers; of rows that hold several sequences [B, L] bool, True at the
            tokens of their prompts.
    """
    holder = state_of(model).holder
    before, holder.lengths = holder.lengths, lengths
    try:
        yield
    finally:
        holder.lengths = before
