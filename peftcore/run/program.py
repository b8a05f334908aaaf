"""Programs: the active pieces of one module, sorted once and run in each call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from peftcore.errors import AttachError
from peftcore.method.pieces import Around, Delta, Piece, Reparam, Transform, changes_bias, overrides
from peftcore.method.placed import Placed
from peftcore.model.context import Context
from peftcore.model.layers import Layer, layer_of
from peftcore.run.holder import ContextHolder

_LOW = (torch.float16, torch.bfloat16)
Rows = tuple[int, int] | None


class Program:
    """The active pieces of one module, sorted by kind once, when adapters are switched."""

    def __init__(self, module: nn.Module, placed: Sequence[Placed], holder: ContextHolder):
        self.layer: Layer | None = layer_of(module)
        self.holder = holder
        self.around: list[Around] = []
        self.inputs: list[Transform] = []
        self.outputs: list[Transform] = []
        self.reparams: list[tuple[Reparam, Rows]] = []
        self.deltas: list[tuple[Delta, Rows]] = []
        self.direct: list[Placed] = []
        for item in placed:
            self._add(item)
        self.through = grouped(self.reparams)
        self.widening = [piece for piece in self.around if overrides(piece, "inner")]

    def _add(self, item: Placed) -> None:
        piece, rows = item.piece, item.site.rows
        if item.site.direct:
            self.direct.append(item)
        elif isinstance(piece, Around):
            self.around.append(piece)
        elif isinstance(piece, Reparam):
            self.reparams.append((piece, rows))
        elif isinstance(piece, Delta):
            self.deltas.append((piece, rows))
        elif isinstance(piece, Transform):
            (self.inputs if piece.where == "input" else self.outputs).append(piece)

    def run(
        self, module: nn.Module, base: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        """Run the module with its pieces: around, inputs, reparams, base, deltas, outputs."""
        context = self.holder.current
        if not self.around:
            return self._inside(module, base, args, kwargs, context)
        for wider in self.widening:
            context = wider.inner(context)

        def call(*a: Any, **k: Any) -> Any:
            return self._inside(module, base, a, k, context)

        for piece in reversed(self.around):
            call = functools.partial(piece, call)
        if not self.widening:
            return call(*args, **kwargs)
        outer, self.holder.current = self.holder.current, context
        try:
            return call(*args, **kwargs)
        finally:
            self.holder.current = outer

    def _inside(
        self, module: nn.Module, base: Callable[..., Any], args: tuple[Any, ...], kwargs: Any,
        context: Context,
    ) -> Any:  # fmt: skip
        if self.inputs:
            args, kwargs = self._edit_inputs(args, kwargs, context)
        if self.reparams:
            out = self._call_reparametrised(module, base, args, kwargs)
        else:
            out = base(module, *args, **kwargs)
        if self.deltas:
            if self.reparams and any(rows for _, rows in self.deltas):
                out = out.clone()  # a reparametrisation may keep its output for backward
            x = args[0] if args else next(iter(kwargs.values()))
            for piece, rows in self.deltas:
                out = add(out, run_piece(piece, x), rows)
        for transform in self.outputs:
            out = edit_first(out, transform, context)
        return out

    def _edit_inputs(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], context: Context
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        for transform in self.inputs:
            if args:
                args = (edit_first(args[0], transform, context), *args[1:])
            else:
                first = next(iter(kwargs))
                kwargs = {**kwargs, first: edit_first(kwargs[first], transform, context)}
        return args, kwargs

    def _call_reparametrised(
        self, module: nn.Module, base: Callable[..., Any], args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:  # fmt: skip
        assert self.layer is not None
        if self.through is None:
            weight = reparametrised(self.layer.weight(module), self.reparams)
            out: Tensor = self.layer.call(module, weight, *args, **kwargs)
            bias: Tensor | None = getattr(module, "bias", None)
            if bias is None or not any(changes_bias(piece) for piece, _ in self.reparams):
                return out
            change = rebiased(bias, self.reparams) - bias
            return out + change.view(-1, *[1] * (weight.dim() - 2))  # of each channel of a conv
        first = next(iter(kwargs), "")
        x: Tensor = args[0] if args else kwargs[first]

        def call(y: Tensor) -> Tensor:
            if args:
                return base(module, y, *args[1:], **kwargs)  # type: ignore[no-any-return]
            return base(module, **{**kwargs, first: y})  # type: ignore[no-any-return]

        if self.through[0][0] is None:
            return self._chained(module, self.through[0][1], None, call)(x)
        whole = call(x)
        parts, end = [], 0
        for rows, pieces in self.through:
            assert rows is not None

            def part(y: Tensor, start: int = rows[0], width: int = rows[1] - rows[0]) -> Tensor:
                return (whole if y is x else call(y)).narrow(-1, start, width)

            parts += [whole[..., end : rows[0]], self._chained(module, pieces, rows, part)(x)]
            end = rows[1]
        return torch.cat([*parts, whole[..., end:]], -1)

    def _chained(
        self, module: nn.Module, pieces: Sequence[Reparam], rows: Rows,
        call: Callable[[Tensor], Tensor],
    ) -> Callable[[Tensor], Tensor]:  # fmt: skip
        """Return the call of a layer, or of a slice of it, through all pieces there."""
        layer = self.layer
        assert layer is not None
        here = slice(*rows) if rows else slice(None)
        bias: Tensor | None = getattr(module, "bias", None)
        if bias is not None and rows:
            bias = bias[here]
        for i, piece in enumerate(pieces):

            def weight(before: Sequence[Reparam] = pieces[:i]) -> Tensor:
                return reparametrised(layer.weight(module)[here], [(p, None) for p in before])

            read = None if i else (*module._parameters.values(), *module._buffers.values())
            prepared = piece.prepared(weight, read)
            call = functools.partial(_through, piece, call, prepared, bias)
            if bias is not None and i + 1 < len(pieces):
                bias = piece.new_bias(bias).to(bias.dtype)
        return call

    def weight(self, module: nn.Module, name: str, stored: Tensor) -> Tensor:
        """Return a stored weight with the active pieces folded in, where it is read directly."""
        here = [p for p in self.direct if p.site.weight_name == name]
        if here:
            return folded(stored, here, self.layer)
        return rebiased(stored, _reparams(p for p in self.direct if p.site.bias_name == name))


def grouped(reparams: Sequence[tuple[Reparam, Rows]]) -> list[tuple[Rows, list[Reparam]]] | None:
    """Return the reparametrisations of each slice, in order of the slices.

    None where the new weight has to be made: one has no ``through``, or slices overlap.
    """
    groups: dict[Rows, list[Reparam]] = {}
    for piece, rows in reparams:
        if not overrides(piece, "through"):
            return None
        groups.setdefault(rows, []).append(piece)
    if len(groups) < 2:
        return list(groups.items())
    slices = sorted(rows for rows in groups if rows is not None)
    if None in groups or any(one[1] > two[0] for one, two in pairwise(slices)):
        return None
    return [(rows, groups[rows]) for rows in slices]


def _through(
    piece: Reparam, call: Callable[[Tensor], Tensor], prepared: Any, bias: Tensor | None, x: Tensor
) -> Tensor:
    return piece.through(call, x, prepared, bias)


def _reparams(placed: Iterable[Placed]) -> list[tuple[Reparam, Rows]]:
    return [(p.piece, p.site.rows) for p in placed if isinstance(p.piece, Reparam)]


def reparametrised(weight: Tensor, reparams: Iterable[tuple[Reparam, Rows]]) -> Tensor:
    """Return a weight, [out, in, ...], after the given reparametrisations."""
    for piece, rows in reparams:
        if rows is None:
            weight = piece(weight).to(weight.dtype)
        else:
            start, stop = rows
            part = piece(weight[start:stop]).to(weight.dtype)
            weight = torch.cat([weight[:start], part, weight[stop:]])
    return weight


def rebiased(bias: Tensor, reparams: Iterable[tuple[Reparam, Rows]]) -> Tensor:
    """Return a bias, [out], after the given reparametrisations."""
    for piece, rows in reparams:
        if changes_bias(piece):
            start, stop = rows or (0, len(bias))
            part = piece.new_bias(bias[start:stop]).to(bias.dtype)
            bias = torch.cat([bias[:start], part, bias[stop:]])
    return bias


def folded(stored: Tensor, placed: Sequence[Placed], layer: Layer | None) -> Tensor:
    """Return a stored weight with the weight forms of pieces folded in; the order is a site's."""
    to_stored = layer.stored if layer else (lambda w: w)
    weight = to_stored(stored)  # the layouts are each other's transpose or the same
    weight = reparametrised(weight, _reparams(placed))
    for item in placed:
        if not isinstance(item.piece, Delta):
            continue
        change = item.piece.weight_delta().to(weight.dtype)
        if item.site.rows is None:
            weight = weight + change
        else:
            start, stop = item.site.rows
            pad = (0, 0) * (weight.dim() - 1)
            weight = weight + nn.functional.pad(change, (*pad, start, weight.shape[0] - stop))
    return to_stored(weight)


def run_piece(piece: Piece, x: Tensor, *rest: Any) -> Tensor:
    """Call a piece on activations of any dtype; its tensors are computed in theirs."""
    call: Callable[..., Tensor] = piece
    own = piece._dtype
    if piece.casts_itself or own == x.dtype or not x.is_floating_point():
        return call(x, *rest)
    if x.dtype in _LOW or own in _LOW:
        with torch.autocast(x.device.type, x.dtype if x.dtype in _LOW else own):
            return call(x, *rest)
    return call(x.to(own), *rest)


def add(out: Any, change: Tensor, rows: Rows) -> Any:
    """Add a change to an output, or to a slice of its features."""
    if not isinstance(out, Tensor):
        return type(out)((add(out[0], change, rows), *out[1:]))
    change = change.to(out.dtype)
    if rows is None:
        return out + change
    # in place: the output of a fused linear is fresh, and its backward does not need it
    out.narrow(-1, rows[0], rows[1] - rows[0]).add_(change)
    return out


def edit_first(value: Any, transform: Transform, context: Context) -> Any:
    """Apply a transform to a tensor, or to the first element of a tuple."""
    if isinstance(value, Tensor):
        return run_piece(transform, value, context).to(value.dtype)
    if isinstance(value, tuple | list) and value and isinstance(value[0], Tensor):
        first = run_piece(transform, value[0], context).to(value[0].dtype)
        return type(value)((first, *value[1:]))
    raise AttachError(
        f"{type(transform).__name__} acts on a tensor or a tuple that begins with one, "
        f"this module gives a {type(value).__name__}."
    )
