"""Each row of a batch its own adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from peftcore.adapter.state import Attached, ModelState, state_of
from peftcore.adapter.statistics import MARK
from peftcore.adapter.switch import check_names, make_entry, opened, wanted_by
from peftcore.errors import AttachError
from peftcore.run.program import is_apart
from peftcore.run.rewriting import rewrite
from peftcore.run.rows import Rows
from peftcore.run.settings import ByRow


@contextmanager
def route(model: nn.Module, names: Sequence[str | None]) -> Iterator[None]:
    """Give each row of the batches that follow its own adapter; None is the bare base.

    A batch of k times as many rows (beams, several samples a prompt) repeats each name k times. It
    holds for this thread or asyncio task; several may each have a route on one model.

    Args:
        model: a model with adapters.
        names: one adapter name for each row.

    Raises:
        UnknownName: the model has no adapter of that name.
        AttachError: an adapter acts where the model reads a weight directly, so that rows cannot
            differ, or where its rows are not the batch's; or a batch of another size comes.

    Example:
        >>> with route(model, ["a", "b", None]):  # doctest: +SKIP
        ...     model(**batch_of_three)
    """
    state = state_of(model)
    used = list(dict.fromkeys(name for name in names if name is not None))
    chosen = check_names(state, used)
    if not names:
        raise AttachError("route(model, []) names no row; give one name, or None, for each.")
    for adapter in chosen:
        _check_called(adapter)
        _check_rows_first(adapter)
        _check_rows(state, adapter)
        _check_statistics(state, adapter)
    index = [used.index(n) if n is not None else -1 for n in names]
    setting = ByRow(
        used, Rows(index, model.buffers), _swaps(chosen), state.holder, **wanted_by(chosen)
    )
    for swap in (swap for adapter in chosen for swap in adapter.swaps):
        for module, leaf in swap.places:
            rewrite(module, state.holder, (leaf,))  # a read outside of the module's call is refused
    if not state.entries and chosen:
        make_entry(model, state, chosen[0].plan.backbone)
    with opened(state, setting, chosen):
        state.holder.forget_batch()
        yield


def _check_called(adapter: Attached) -> None:
    """Refuse an adapter that acts on weights which the model reads once for the whole batch."""
    direct = next((p.site.name for p in adapter.placed if p.site.direct), None)
    if direct is None:
        read = adapter.plan.survey.read_directly
        direct = next(
            (s.selected.info.name for s in adapter.swaps if s.selected.info.name in read), None
        )
    if direct is not None:
        raise AttachError(
            f"adapter {adapter.name!r} cannot be routed: the model reads the weight of"
            f" {direct} directly, once for the whole batch. Run the rows of each adapter by"
            " themselves, with activate."
        )


def _check_rows_first(adapter: Attached) -> None:
    """Refuse an adapter that acts where the first axis is tokens, so that its rows are unknown."""
    found = adapter.plan.survey
    if not found.has_tokens_first:
        return
    paths = (*(p.site.path for p in adapter.placed), *(s.selected.info.path for s in adapter.swaps))
    for path in dict.fromkeys(paths):
        first = found.tokens_first(path)
        if first is not None:
            raise AttachError(
                f"adapter {adapter.name!r} cannot be routed: at {path or 'the model'} the first"
                f" axis is tokens and not rows, since {first or 'the model'} has batch_first=False."
                " Build the model with batch_first=True."
            )


def _check_rows(state: ModelState, adapter: Attached) -> None:
    """Refuse an adapter that acts in a stack whose rows are images, not rows of the batch."""
    if not state.holder.backbone.main_stack:
        return
    places = [(p.site.here, p.site.stack) for p in adapter.placed]
    places += [(s.selected.info.name, s.selected.info.stack) for s in adapter.swaps]
    for place, stack in places:
        if is_apart(stack, state.holder.backbone):
            raise AttachError(
                f"adapter {adapter.name!r} cannot be routed: {place} is in the stack {stack}, whose"
                f" rows are not those of the batch. Route adapters whose targets name the stack"
                f" {state.holder.backbone.main_stack}."
            )


def _check_statistics(state: ModelState, adapter: Attached) -> None:
    """Refuse an adapter that has running statistics of its own, which a batch has only one of."""
    own = adapter.statistics or (adapter.is_in and state.statistics.moved())
    if own:
        raise AttachError(
            f"adapter {adapter.name!r} cannot be routed: {next(iter(own)).replace(MARK, '.')} moved"
            " in its training, and rows of one batch cannot have statistics of their own. Run the"
            " rows of each adapter by themselves, with activate."
        )


def _swaps(chosen: Sequence[Attached]) -> dict[int, list[dict[str, nn.Parameter]]]:
    """Return, by id of a module, the parameters there that each adapter brings."""
    found: dict[int, list[dict[str, nn.Parameter]]] = {}
    for i, adapter in enumerate(chosen):
        for swap in adapter.swaps:
            for module, leaf in swap.places:
                found.setdefault(id(module), [{} for _ in chosen])[i][leaf] = swap.own
    return found
