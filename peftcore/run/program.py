"""Programs: the active pieces of one module, sorted once and run in each call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from peftcore.errors import AttachError
from peftcore.method.pieces import Around, Delta, Piece, Reparam, Transform
from peftcore.method.placed import Placed
from peftcore.model.backbones import Backbone
from peftcore.model.context import Context
from peftcore.model.layers import Layer, layer_at, layer_of
from peftcore.model.offloading import offloads
from peftcore.run.casting import new_bias, run_around, run_as, run_piece
from peftcore.run.folding import Features, folded, rebiased, rebiased_by, reparametrised
from peftcore.run.holder import ContextHolder


class Program:
    """The active pieces of one module, sorted by kind once, when adapters are switched."""

    #: Parameters that rows have values of their own for: none, where all rows have the same.
    held: frozenset[str] = frozenset()

    def __init__(self, module: nn.Module, placed: Sequence[Placed], holder: ContextHolder):
        self.layer: Layer | None = layer_of(module)
        self.holder = holder
        self.placed = placed
        self.firsts = firsts(placed)
        self.around: list[Around] = []
        self.inputs: list[Transform] = []
        self.outputs: list[Transform] = []
        self.reparams: list[tuple[Reparam, Features]] = []
        self.deltas: list[tuple[Delta, Features]] = []
        self.direct: list[Placed] = []
        for item in placed:
            self._add(item)
        #: Some of them act when the module is called.
        self.acts_on_call = len(self.direct) < len(placed)
        self.through = grouped(self.reparams)
        self.widening = [piece for piece in self.around if piece.widens]
        #: Gives the context here, where the one of the call tells of the tokens of another stack.
        self.beside = beside(placed, holder.backbone)

    def _add(self, item: Placed) -> None:
        piece, features = item.piece, item.site.features
        if item.site.direct:
            self.direct.append(item)
        elif isinstance(piece, Around):
            self.around.append(piece)
        elif isinstance(piece, Reparam):
            self.reparams.append((piece, features))
        elif isinstance(piece, Delta):
            self.deltas.append((piece, features))
        elif isinstance(piece, Transform):
            (self.inputs if piece.where == "input" else self.outputs).append(piece)

    def run(
        self, module: nn.Module, base: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        """Run the module with its pieces: around, inputs, reparams, base, deltas, outputs."""
        if not self.direct or torch.compiler.is_compiling():
            return self._run(module, base, args, kwargs)
        with self.holder.reading():
            return self._run(module, base, args, kwargs)

    def _run(
        self, module: nn.Module, base: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        context = self.holder.current
        if self.beside is not None:
            context = self.beside(context)
        if not self.around:
            return self._inside(module, base, args, kwargs, context)
        for wider in self.widening:
            context = wider.inner(context)

        def call(*a: Any, **k: Any) -> Any:
            return self._inside(module, base, a, k, context)

        for piece in reversed(self.around):
            call = functools.partial(run_around, piece, call, context, module)
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
            out = self._call_reparametrised(module, base, args, kwargs, context)
        else:
            out = base(module, *args, **kwargs)
        if self.deltas:
            if self.reparams and any(features for _, features in self.deltas):
                out = out.clone()  # a reparametrisation may keep its output for backward
            x = args[0] if args else next(iter(kwargs.values()))
            for piece, features in self.deltas:
                out = add(out, run_piece(piece, x, context), features, piece)
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
        kwargs: dict[str, Any], context: Context,
    ) -> Tensor:  # fmt: skip
        assert self.layer is not None
        if self.through is None:
            weight = reparametrised(self.layer.weight(module), self.reparams, context)
            out: Tensor = self.layer.call(module, weight, *args, **kwargs)
            bias: Tensor | None = getattr(module, "bias", None)
            if bias is None or not any(piece.changes_bias for piece, _ in self.reparams):
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
            return self._chained(module, self.through[0][1], None, call, context)(x)
        whole = call(x)
        parts, end = [], 0
        for features, pieces in self.through:
            assert features is not None

            def part(
                y: Tensor, start: int = features[0], width: int = features[1] - features[0]
            ) -> Tensor:
                return (whole if y is x else call(y)).narrow(-1, start, width)

            chained = self._chained(module, pieces, features, part, context)
            parts += [whole[..., end : features[0]], chained(x)]
            end = features[1]
        return torch.cat([*parts, whole[..., end:]], -1)

    def _chained(
        self, module: nn.Module, pieces: Sequence[Reparam], features: Features,
        call: Callable[[Tensor], Tensor], context: Context,
    ) -> Callable[[Tensor], Tensor]:  # fmt: skip
        """Return the call of a layer, or of a slice of it, through all pieces there."""
        layer = self.layer
        assert layer is not None
        here = slice(*features) if features else slice(None)
        bias: Tensor | None = getattr(module, "bias", None)
        if bias is not None and features:
            bias = bias[here]
        for i, piece in enumerate(pieces):

            def weight(before: Sequence[Reparam] = pieces[:i]) -> Tensor:
                whole = layer.weight(module)[here]
                return reparametrised(whole, [(p, None) for p in before], context)

            read: Iterable[Tensor | None] | None = None
            if not i:  # offloaded weights are new tensors in each call, and must not be held
                kept = offloads(module) is not None
                read = () if kept else (*module._parameters.values(), *module._buffers.values())
            precomputed = piece.precomputed(weight, read, self.holder.sequence)
            more = {"context": context} if piece.through_uses_context else {}
            call = functools.partial(_through, piece, call, precomputed, bias, more)
            if bias is not None and i + 1 < len(pieces):
                bias = new_bias(piece, bias)
        return call

    def weight(self, module: nn.Module, name: str, stored: Tensor) -> Tensor:
        """Return a stored weight with the active pieces folded in, where it is read directly.

        In one call of the module it is made once: a loop over experts reads it for each of them.
        """
        made = None if torch.compiler.is_compiling() else self.holder.read
        if made is None:
            return self._weight(module, name, stored)
        key = id(module), name, torch.is_grad_enabled()
        if key not in made:
            made[key] = self._weight(module, name, stored)
        return made[key]

    def _weight(self, module: nn.Module, name: str, stored: Tensor) -> Tensor:
        here = [p for p in self.direct if p.site.weight_name == name]
        if here:
            return folded(stored, here, layer_at(module, name))
        return rebiased_by(stored, [p for p in self.direct if p.site.bias_name == name])


class Deltas(Program):
    """Deltas of a whole module alone, as LoRA's: nothing is asked in a call but what they add."""

    acts_on_call = True
    around = inputs = outputs = reparams = direct = widening = ()  # type: ignore[assignment]

    def __init__(self, module: nn.Module, placed: Sequence[Placed], holder: ContextHolder):
        self.holder = holder
        self.placed = placed
        self.firsts = firsts(placed)
        self.deltas = [(item.piece, None) for item in placed]  # type: ignore[misc]

    def run(
        self, module: nn.Module, base: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        """Run the module, and add to what it returns."""
        out = base(module, *args, **kwargs)
        x = args[0] if args else next(iter(kwargs.values()))
        for piece, _ in self.deltas:
            change = piece(x) if piece.casts_itself else run_as(piece, piece, x)
            if type(out) is Tensor and change.dtype == out.dtype and change.shape == out.shape:
                out = out + change
            else:
                out = add(out, change, None, piece)
        return out


def program_of(module: nn.Module, placed: Sequence[Placed], holder: ContextHolder) -> Program:
    """Return the program of the active pieces of one module."""
    plain = all(
        isinstance(item.piece, Delta)
        and item.site.features is None
        and not item.site.direct
        and not item.piece.uses_context
        for item in placed
    )
    return (Deltas if plain else Program)(module, placed, holder)


def firsts(placed: Iterable[Placed]) -> list[tuple[dict[str, Any], str]]:
    """Return where the first parameter of each piece is, that of pieces without any left out."""
    return [item.first for item in placed if item.first is not None]


def is_apart(stack: str, backbone: Backbone) -> bool:
    """Tell whether the tokens and rows of a stack are others than the context tells of."""
    return bool(stack and backbone.main_stack) and stack != backbone.main_stack


def beside(placed: Sequence[Placed], backbone: Backbone) -> Callable[[Context], Context] | None:
    """Return what gives the context at a place whose tokens are not those that the call tells of.

    None where they are. In a stack apart from the main one nothing is known; the keys and values
    of cross-attention are computed of what another stack made.
    """
    if any(is_apart(item.site.stack, backbone) for item in placed):
        return Context.elsewhere
    if backbone.writing_stack and any(item.site.crosses for item in placed):
        return Context.read
    return None


def grouped(
    reparams: Sequence[tuple[Reparam, Features]],
) -> list[tuple[Features, list[Reparam]]] | None:
    """Return the reparametrisations of each slice, in order of the slices.

    None where the new weight has to be made: one has no ``through``, or slices overlap.
    """
    groups: dict[Features, list[Reparam]] = {}
    for piece, features in reparams:
        if not piece.has_through:
            return None
        groups.setdefault(features, []).append(piece)
    if len(groups) < 2:
        return list(groups.items())
    slices = sorted(features for features in groups if features is not None)
    if None in groups or any(one[1] > two[0] for one, two in pairwise(slices)):
        return None
    return [(features, groups[features]) for features in slices]


def _through(
    piece: Reparam, call: Callable[[Tensor], Tensor], precomputed: Any, bias: Tensor | None,
    more: Mapping[str, Context], x: Tensor,
) -> Tensor:  # fmt: skip
    return piece.through(call, x, precomputed, bias, **more)


def add(out: Any, change: Tensor, features: Features, piece: Piece) -> Any:
    """Add a change to an output, or to a slice of its features."""
    if not isinstance(out, Tensor):
        return type(out)((add(out[0], change, features, piece), *out[1:]))
    change = change.to(out.dtype)
    if features is None:
        if change.shape != out.shape and change.dim() >= out.dim():
            raise misshapen(piece, change, out.shape)
        return out + change
    # in place: the output of a fused linear is fresh, and its backward does not need it
    part = out.narrow(-1, features[0], features[1] - features[0])
    if change.shape != part.shape and change.dim() >= part.dim():
        raise misshapen(piece, change, part.shape)
    part.add_(change)
    return out


def misshapen(piece: Piece, got: Tensor, wanted: Sequence[int]) -> AttachError:
    """Return the error for a piece whose output would be broadcast unnoticed."""
    return AttachError(
        f"{type(piece).__name__}{_place(piece)} returned {tuple(got.shape)} where"
        f" {tuple(wanted)} is needed: a piece returns as many features as its layer has."
    )


def _place(piece: Piece) -> str:
    if "_place" not in piece.__dict__:
        return ""
    method, path, role = piece.__dict__["_place"]
    return f" of {method} at {path or 'the model'} ({role})"


def edit_first(value: Any, transform: Transform, context: Context) -> Any:
    """Apply a transform to a tensor, or to the first element of a tuple."""
    if isinstance(value, Tensor):
        return edited(value, transform, context)
    if isinstance(value, tuple | list) and value and isinstance(value[0], Tensor):
        return type(value)((edited(value[0], transform, context), *value[1:]))
    raise AttachError(
        f"{type(transform).__name__}{_place(transform)} acts on a tensor or a"
        f" tuple that begins with one, this module gives a {type(value).__name__}."
    )


def edited(hidden: Tensor, transform: Transform, context: Context) -> Tensor:
    """Return hidden states after a transform, shaped and typed as they came."""
    if hidden.is_nested:
        raise AttachError(
            f"{type(transform).__name__}{_place(transform)} was given a nested tensor, which has no"
            " rows of one length; torch's encoder makes one of padded rows in evaluation. Build it"
            " with enable_nested_tensor=False, or set its use_nested_tensor to False."
        )
    out = run_piece(transform, hidden, context)
    if out.shape != hidden.shape:
        raise misshapen(transform, out, hidden.shape)
    return out.to(hidden.dtype)
