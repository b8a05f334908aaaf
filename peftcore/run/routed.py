"""Modules whose rows have adapters of their own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from peftcore.errors import AttachError
from peftcore.method.pieces import Delta, Reparam, Transform, state_of_tensors
from peftcore.method.placed import Placed
from peftcore.model.context import Context
from peftcore.model.walk import bare_class
from peftcore.run.casting import run_as, run_piece
from peftcore.run.holder import ContextHolder
from peftcore.run.program import add, beside, edit_first, firsts, program_of
from peftcore.run.rows import Rows, can_be_picked, heads_of, picked, together


def routed(
    module: nn.Module, items: list[list[Placed]], swaps: list[dict[str, nn.Parameter]],
    rows: Rows, holder: ContextHolder,
) -> Routed:  # fmt: skip
    """Return the program of a module whose rows have adapters of their own.

    Args:
        module: the module.
        items: the pieces there of each adapter.
        swaps: the parameters there of each adapter, by name.
        rows: which adapter serves each row.
        holder: the context of the call that is running.
    """
    flat = [item.piece for group in items for item in group]
    whole = all(item.site.features is None for group in items for item in group)
    kind: type[Routed] = RoutedGroups
    if whole and not any(swaps):
        if all(isinstance(piece, Delta) for piece in flat):
            kind = RoutedDeltas
        elif all(isinstance(p, Transform) and p.where == "output" for p in flat):
            kind = RoutedOutputs
        elif all(isinstance(p, Reparam) and p.serves_rows for p in flat):
            kind = RoutedReparams
    return kind(module, items, swaps, rows, holder)


class Routed:
    """The pieces of several adapters at one module.

    Where a module that encloses this one runs for the rows of one adapter alone, so does this one.
    """

    direct: tuple[Placed, ...] = ()
    acts_on_call = True

    def __init__(
        self, module: nn.Module, items: list[list[Placed]], swaps: list[dict[str, nn.Parameter]],
        rows: Rows, holder: ContextHolder,
    ):  # fmt: skip
        self.module = module
        self.rows = rows
        self.holder = holder
        self.swaps = swaps
        self.programs = [program_of(module, group, holder) if group else None for group in items]
        self.placed = [item for group in items for item in group]
        self.firsts = firsts(self.placed)
        self.pieces: list[list[Any]] = [[item.piece for item in group] for group in items]
        self._banks: dict[tuple[int, torch.device], tuple[Any, Callable[..., Tensor] | None]] = {}
        having = [i for i, pieces in enumerate(self.pieces) if pieces]
        ones = [self.pieces[i][0] for i in having]
        #: The pieces are of one class that offers to serve rows.
        self.fits = (
            all(len(pieces) < 2 for pieces in self.pieces)
            and len({type(piece) for piece in ones}) == 1
            and ones[0].serves_rows
        )
        self._having, self._ones = having, ones
        self.beside = beside(self.placed, holder.backbone)
        #: Parameters that rows have values of their own for; none while the module runs with them.
        self.held = frozenset(leaf for own in swaps for leaf in own)

    def run(self, module: nn.Module, base: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run the module for the rows of all adapters, or for those of one."""
        context = self.holder.current
        if self.beside is not None:
            context = self.beside(context)
        if context.group is not None:
            return self.run_group(context.group, module, base, args, kwargs)
        return self.run_all(context, module, base, args, kwargs)

    def run_all(
        self, context: Context, module: nn.Module, base: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Run the module for rows that have adapters of their own."""
        raise NotImplementedError

    def run_group(
        self, i: int, module: nn.Module, base: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Run the module with the pieces and values of one adapter; -1 is the bare base."""
        program = self.programs[i] if i >= 0 else None
        own = self.swaps[i] if i >= 0 else {}
        before = {leaf: module._parameters[leaf] for leaf in own}
        module._parameters.update(own)
        held, self.held = self.held, frozenset()
        try:
            if program is None:
                return base(module, *args, **kwargs)
            return program.run(module, base, args, kwargs)
        finally:
            self.held = held
            module._parameters.update(before)

    def bank(self, index: Tensor) -> Callable[..., Tensor] | None:
        """Return one batched function for all rows, where the pieces offer one."""
        if not self.fits:
            return None
        key = (len(index), index.device)
        factors = (t for piece in self._ones for t in (*piece.parameters(), *piece.buffers()))
        state = None
        if not torch.is_grad_enabled():
            state = state_of_tensors(factors, self.holder.sequence)
        known = self._banks.get(key)
        if state is None or known is None or known[0] != state:
            number = torch.full((len(self.pieces) + 1,), -1, device=index.device)
            number[self._having] = torch.arange(len(self._having), device=index.device)
            kind: Any = type(self._ones[0])
            bank: Callable[..., Tensor] | None = kind.batched(self._ones, number[index])
            if state is None:
                return bank
            known = self._banks[key] = (state, bank)
        return known[1]


class RoutedDeltas(Routed):
    """Only deltas at this module: the base runs once for all rows."""

    def run_all(
        self, context: Context, module: nn.Module, base: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Run the module, then add to each row what its adapter adds."""
        x: Tensor = args[0] if args else next(iter(kwargs.values()))
        out = base(module, *args, **kwargs)
        index, groups = self.rows.of(x, context.batch)
        bank = self.bank(index)
        if bank is not None:
            return add(out, run_as(self._ones[0], bank, x), None, self._ones[0])
        for pieces, rows in zip(self.pieces, groups[1:], strict=False):
            if len(rows) == 0:
                continue
            for piece in pieces:
                change = run_piece(piece, x[rows], context.rows(rows)).to(out.dtype)
                out = out.index_add(0, rows, change.expand(len(rows), *out.shape[1:]))
        return out


class RoutedOutputs(Routed):
    """Only edits of the output at this module: the base runs once for all rows."""

    def run_all(
        self, context: Context, module: nn.Module, base: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Run the module, then let each adapter edit its rows."""
        out = base(module, *args, **kwargs)
        whole = out if isinstance(out, Tensor) else out[0]
        index, groups = self.rows.of(whole, context.batch)
        bank = self.bank(index)
        if bank is not None:
            edit = partial(_edit_rows, bank, context)
            whole = run_as(self._ones[0], edit, whole).to(whole.dtype)
            return whole if isinstance(out, Tensor) else type(out)((whole, *out[1:]))
        for pieces, rows in zip(self.pieces, groups[1:], strict=False):
            if len(rows) == 0 or not pieces:
                continue
            part = whole[rows]
            for piece in pieces:
                part = edit_first(part, piece, context.rows(rows))
            whole = whole.index_copy(0, rows, part.to(whole.dtype))
        return whole if isinstance(out, Tensor) else type(out)((whole, *out[1:]))


class RoutedGroups(Routed):
    """Any pieces at this module: it runs once for each adapter, on that adapter's rows.

    Where it cannot be told which of its arguments are rows, it runs on all rows for each adapter,
    and that adapter's are taken from what comes out.
    """

    def __init__(self, module: nn.Module, *args: Any):
        super().__init__(module, *args)
        self._names = tuple(inspect.signature(bare_class(module).forward).parameters)[1:]
        self._heads: set[int] | None = None

    def run_all(
        self, context: Context, module: nn.Module, base: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Run each group of rows with its own pieces and values, and put the rows together."""
        x = self._stream(module, args, kwargs)
        _, groups = self.rows.of(x, context.batch)
        there = [(i, rows) for i, rows in enumerate(groups, start=-1) if len(rows)]
        count, constants = x.shape[0], self.rows.constants
        apart = len(there) > 1 and self._can_be_picked((args, kwargs), x, context.batch)
        everything = self.rows.whole(count, x.device)
        outs: list[tuple[Tensor, Any]] = []
        try:
            for i, rows in there:
                taken = rows if apart else everything
                self.holder.current = context.rows(taken, i)
                # copies, so that a module may write into what it is given
                a, k = (picked(given, taken, count, constants) for given in (args, kwargs))
                out = self.run_group(i, module, base, a, k)
                if len(there) == 1:
                    return out
                outs.append((rows, out if apart else picked(out, rows, count, frozenset())))
        finally:
            self.holder.current = context
        return together(outs, count)

    def _stream(self, module: nn.Module, args: Any, kwargs: Any) -> Tensor:
        """Return what runs through the module: the first tensor that it is given."""
        if any(hasattr(value, "get_seq_length") for value in (*args, *kwargs.values())):
            raise AttachError(
                "rows of a batch cannot have adapters of their own at this"
                f" {bare_class(module).__name__} while it writes to a cache of keys and values,"
                " which has one place for all rows: pass use_cache=False."
            )
        named = (kwargs[name] for name in self._names if name in kwargs)
        for value in (*args, *named, *kwargs.values()):
            if isinstance(value, Tensor) and value.dim() and not isinstance(value, nn.Parameter):
                return value
        raise AttachError(
            f"rows cannot be routed through a {bare_class(module).__name__} that is given no"
            " tensor. Leave it out with exclude, or activate one adapter at a time."
        )

    def _can_be_picked(self, given: Any, x: Tensor, batch: int | None) -> bool:
        if self._heads is None:
            self._heads = heads_of(self.module)
        batch = len(self.rows.index) if batch is None else batch
        return can_be_picked(given, x, batch, self.rows.constants, self._heads)


class RoutedReparams(RoutedGroups):
    """One reparametrisation an adapter, of a class that serves rows beside one call of the base."""

    def run_all(
        self, context: Context, module: nn.Module, base: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Run the module once, with the pieces of all rows around it."""
        first = next(iter(kwargs), "")
        x: Tensor = args[0] if args else kwargs[first]
        index, _ = self.rows.of(x, context.batch)
        bank = self.bank(index)
        if bank is None:
            return super().run_all(context, module, base, args, kwargs)

        def call(y: Tensor) -> Tensor:
            if args:
                return base(module, y, *args[1:], **kwargs)  # type: ignore[no-any-return]
            return base(module, **{**kwargs, first: y})  # type: ignore[no-any-return]

        return bank(call, x)


def _edit_rows(bank: Callable[..., Tensor], context: Context, hidden: Tensor) -> Tensor:
    return bank(hidden, context)
