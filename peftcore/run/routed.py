"""Modules whose rows have adapters of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from peftcore.run.program import Program, add, edit_first


class Rows:
    """Which adapter serves each row, as tensors on the device of the batch."""

    def __init__(self, index: Sequence[int]):
        self.index = torch.tensor(index)
        self._made: dict[tuple[int, torch.device], tuple[Tensor, list[Tensor]]] = {}

    def of(self, count: int, device: torch.device) -> tuple[Tensor, list[Tensor]]:
        """Return ([B] index, rows of each group, those without an adapter first)."""
        key = (count, device)
        if key not in self._made:
            times, rest = divmod(count, len(self.index))
            if rest:
                raise AttachError(
                    f"{len(self.index)} adapters are routed, but a call has {count} rows: the batch"
                    " is of another size, or the model computes something here once for all rows."
                )
            index = self.index.repeat_interleave(times).to(device)
            top = int(self.index.max()) if len(self.index) else -1
            groups = [(index == i).nonzero()[:, 0] for i in range(-1, top + 1)]
            self._made[key] = (index, groups)
        return self._made[key]


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

    def __init__(
        self, module: nn.Module, items: list[list[Placed]], swaps: list[dict[str, nn.Parameter]],
        rows: Rows, holder: ContextHolder,
    ):  # fmt: skip
        self.rows = rows
        self.holder = holder
        self.swaps = swaps
        self.programs = [Program(module, group, holder) if group else None for group in items]
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

    def run(self, module: nn.Module, base: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run the module for the rows of all adapters, or for those of one."""
        context = self.holder.current
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
        try:
            if program is None:
                return base(module, *args, **kwargs)
            return program.run(module, base, args, kwargs)
        finally:
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
        index, groups = self.rows.of(x.shape[0], x.device)
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
        index, groups = self.rows.of(whole.shape[0], whole.device)
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
    """Any pieces at this module: it runs once for each adapter, on that adapter's rows."""

    def run_all(
        self, context: Context, module: nn.Module, base: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Run each group of rows with its own pieces and values, and put the rows together."""
        given = (*args, *kwargs.values())
        if any(hasattr(value, "get_seq_length") for value in given):
            raise AttachError(
                "rows of a batch cannot have adapters of their own at this"
                f" {bare_class(module).__name__} while it writes to a cache of keys and values,"
                " which has one place for all rows: pass use_cache=False."
            )
        values = [v for v in given if isinstance(v, Tensor)]
        count = values[0].shape[0]
        _, groups = self.rows.of(count, values[0].device)
        outs: list[tuple[Tensor, Any]] = []
        try:
            for i, rows in enumerate(groups, start=-1):
                if len(rows) == 0:
                    continue
                a = _pick(args, rows, count)
                k = _pick(kwargs, rows, count)
                self.holder.current = context.rows(rows, i)
                outs.append((rows, self.run_group(i, module, base, a, k)))
        finally:
            self.holder.current = context
        return _together(outs, count)


class RoutedReparams(RoutedGroups):
    """One reparametrisation an adapter, of a class that serves rows beside one call of the base."""

    def run_all(
        self, context: Context, module: nn.Module, base: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Run the module once, with the pieces of all rows around it."""
        first = next(iter(kwargs), "")
        x: Tensor = args[0] if args else kwargs[first]
        index, _ = self.rows.of(x.shape[0], x.device)
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


def _pick(value: Any, rows: Tensor, count: int) -> Any:
    """Take some rows of every tensor that has one entry for each row of the batch."""
    if isinstance(value, Tensor):
        return value[rows] if value.dim() > 0 and value.shape[0] == count else value
    if type(value) in (tuple, list):
        return type(value)(_pick(v, rows, count) for v in value)
    if type(value) is dict:
        return {k: _pick(v, rows, count) for k, v in value.items()}
    return value


def _together(outs: list[tuple[Tensor, Any]], count: int) -> Any:
    first = outs[0][1]
    if isinstance(first, Tensor):
        if len({part.shape[1:] for _, part in outs}) > 1:
            raise AttachError(
                "rows of one batch came out in unequal lengths: some of their adapters add tokens."
                " Give such rows batches of their own."
            )
        whole = first.new_empty(count, *first.shape[1:])
        for rows, part in outs:
            whole = whole.index_copy(0, rows, part.to(whole.dtype))
        return whole
    if isinstance(first, tuple | list):
        columns = zip(*(part for _, part in outs), strict=True)
        groups = [r for r, _ in outs]
        return type(first)(
            _together(list(zip(groups, column, strict=True)), count) for column in columns
        )
    if first is None:
        return None
    raise AttachError(
        f"rows cannot be routed through a module that returns {type(first).__name__}."
    )
