"""Each row of a batch its own adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from peftcore.adapter.state import state_of
from peftcore.adapter.switch import switch
from peftcore.errors import AttachError, UnknownName, nearest
from peftcore.method.placed import Placed
from peftcore.run.routed import Rows, routed


@contextmanager
def route(model: nn.Module, names: Sequence[str | None]) -> Iterator[None]:
    """Give each row of the batches that follow its own adapter; None is the bare base.

    A batch of k times as many rows (beams, several samples a prompt) repeats each name k times.

    Args:
        model: a model with adapters.
        names: one adapter name for each row.

    Raises:
        UnknownName: the model has no adapter of that name.
        AttachError: an adapter acts where the model reads a weight directly, so that rows cannot
            differ; or a batch of another size comes.

    Example:
        >>> with route(model, ["a", "b", None]):  # doctest: +SKIP
        ...     model(**batch_of_three)
    """
    state = state_of(model)
    for name in names:
        if name is not None and name not in state.adapters:
            raise UnknownName(
                f"this model has no adapter {name!r}.{nearest(name, state.adapters)}"
                f" It has: {', '.join(state.adapters)}."
            )
    if state.merged:
        raise AttachError(f"adapter {state.merged[-1][0]!r} is merged; unmerge it first.")
    used = list(dict.fromkeys(name for name in names if name is not None))
    chosen = [state.adapters[name] for name in used]
    for adapter in chosen:
        direct = next((p for p in adapter.placed if p.site.direct), None)
        if direct is not None:
            raise AttachError(
                f"adapter {adapter.name!r} cannot be routed: the model reads the weight of"
                f" {direct.site.name} directly, once for the whole batch."
            )
    assert state.holder is not None
    before, wanted = state.active, state.holder.wanted
    switch(state, tuple(used[:1]))  # makes the context wanted where any adapter uses it
    wanted_by = [state.holder.wanted]
    for name in used[1:]:
        switch(state, (name,))
        wanted_by.append(state.holder.wanted)
    switch(state, ())
    state.holder.wanted = any(wanted_by)
    modules = {id(m): m for adapter in chosen for m in adapter.modules_touched()}
    try:
        rows = Rows([used.index(n) if n is not None else -1 for n in names])
        for module in modules.values():
            swaps = [
                {leaf: s.own for s in a.swaps for m, leaf in s.places if m is module}
                for a in chosen
            ]
            placed: dict[str, list[Placed]] = module._peftcore_placed  # type: ignore[assignment]
            items = [placed.get(name, []) for name in used]
            module.__dict__["_peftcore_program"] = routed(module, items, swaps, rows, state.holder)
        yield
    finally:
        for module in modules.values():
            module.__dict__["_peftcore_program"] = None
        switch(state, before)
        state.holder.wanted = wanted
