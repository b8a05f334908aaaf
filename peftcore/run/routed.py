"""Modules whose rows have adapters of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peftcore.errors import AttachError
from peftcore.method.pieces import Delta, Transform
from peftcore.method.placed import Placed
from peftcore.model.walk import bare_class
from peftcore.run.holder import ContextHolder
from peftcore.run.program import Program, add, edit_first, run_piece


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
) -> Any:  # fmt: skip
    flat = [item for group in items for item in group]
    plain = all(isinstance(item.piece, Delta) and item.site.rows is None for item in flat)
    if plain and not any(swaps):
        return RoutedDeltas(items, rows)
    after = all(isinstance(i.piece, Transform) and i.piece.where == "output" for i in flat)
    if after and not any(swaps):
        return RoutedOutputs(items, rows, holder)
    return RoutedGroups(module, items, swaps, rows, holder)


class RoutedDeltas:
    """Only deltas at this module: the base runs once for all rows."""

    direct: tuple[Placed, ...] = ()

    def __init__(self, items: list[list[Placed]], rows: Rows):
        self.rows = rows
        self.pieces: list[list[Delta]] = [
            [item.piece for item in group if isinstance(item.piece, Delta)] for group in items
        ]
        self._banks: dict[tuple[int, torch.device], Callable[[Tensor], Tensor] | None] = {}

    def run(self, module: nn.Module, base: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run the module, then add to each row what its adapter adds."""
        x: Tensor = args[0] if args else next(iter(kwargs.values()))
        out = base(module, *args, **kwargs)
        index, groups = self.rows.of(x.shape[0], x.device)
        bank = self._bank(index)
        if bank is not None:
            return add(out, bank(x), None)
        for pieces, rows in zip(self.pieces, groups[1:], strict=False):
            if len(rows) == 0:
                continue
            for piece in pieces:
                change = run_piece(piece, x[rows]).to(out.dtype)
                out = out.index_add(0, rows, change.expand(len(rows), *out.shape[1:]))
        return out

    def _bank(self, index: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Return one batched function for all rows, where the pieces offer one."""
        if any(len(pieces) > 1 for pieces in self.pieces):
            return None
        having = [i for i, pieces in enumerate(self.pieces) if pieces]
        ones = [self.pieces[i][0] for i in having]
        if len({type(piece) for piece in ones}) != 1:
            return None
        key = (len(index), index.device)
        grad = torch.is_grad_enabled()
        if grad or key not in self._banks:
            number = torch.full((len(self.pieces) + 1,), -1, device=index.device)
            number[having] = torch.arange(len(having), device=index.device)
            bank = type(ones[0]).batched(ones, number[index])
            if grad:
                return bank
            self._banks[key] = bank
        return self._banks[key]


class RoutedOutputs:
    """Only edits of the output at this module: the base runs once for all rows."""

    direct: tuple[Placed, ...] = ()

    def __init__(self, items: list[list[Placed]], rows: Rows, holder: ContextHolder):
        self.rows = rows
        self.holder = holder
        self.pieces: list[list[Any]] = [[item.piece for item in group] for group in items]

    def run(self, module: nn.Module, base: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run the module, then let each adapter edit its rows."""
        out = base(module, *args, **kwargs)
        whole = out if isinstance(out, Tensor) else out[0]
        _, groups = self.rows.of(whole.shape[0], whole.device)
        context = self.holder.current
        for pieces, rows in zip(self.pieces, groups[1:], strict=False):
            if len(rows) == 0 or not pieces:
                continue
            part = whole[rows]
            for piece in pieces:
                part = edit_first(part, piece, context.rows(rows))
            whole = whole.index_copy(0, rows, part.to(whole.dtype))
        return whole if isinstance(out, Tensor) else type(out)((whole, *out[1:]))


class RoutedGroups:
    """Any pieces at this module: it runs once for each adapter, on that adapter's rows."""

    direct: tuple[Placed, ...] = ()

    def __init__(
        self, module: nn.Module, items: list[list[Placed]], swaps: list[dict[str, nn.Parameter]],
        rows: Rows, holder: ContextHolder,
    ):  # fmt: skip
        self.rows = rows
        self.holder = holder
        self.programs = [Program(module, group, holder) if group else None for group in items]
        self.swaps = swaps

    def run(self, module: nn.Module, base: Callable[..., Any], args: Any, kwargs: Any) -> Any:
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
        context = self.holder.current
        outs: list[tuple[Tensor, Any]] = []
        try:
            for i, rows in enumerate(groups, start=-1):
                if len(rows) == 0:
                    continue
                a = _pick(args, rows, count)
                k = _pick(kwargs, rows, count)
                self.holder.current = context.rows(rows)
                outs.append((rows, self._run_group(i, module, base, a, k)))
        finally:
            self.holder.current = context
        return _together(outs, count)

    def _run_group(
        self, i: int, module: nn.Module, base: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
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
