"""Calling pieces on activations of any dtype, so that their tensors can be fp32 on a bf16 base."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from peftcore.method.pieces import Around, Piece, Reparam
from peftcore.model.context import Context

_LOW = (torch.float16, torch.bfloat16)


def run_piece(piece: Piece, x: Tensor, context: Context | None = None) -> Tensor:
    """Call a piece on activations or a weight of any dtype; its tensors are computed in theirs."""
    call: Callable[..., Tensor] = piece
    if piece.uses_context:
        call = functools.partial(call, context=Context() if context is None else context)
    return run_as(piece, call, x)


def run_as(piece: Piece, call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Call a piece, or a function that computes with tensors as its, on x of any dtype."""
    own = piece._dtype
    if piece.casts_itself or own == x.dtype or not x.is_floating_point():
        return call(x)
    if isinstance(piece, Reparam):
        return call(x.to(torch.promote_types(own, x.dtype)))
    if x.dtype in _LOW or own in _LOW:
        with torch.autocast(x.device.type, x.dtype if x.dtype in _LOW else own):
            return call(x)
    return call(x.to(own))


def new_bias(piece: Reparam, bias: Tensor) -> Tensor:
    """Return the bias that a reparametrisation makes of one of any dtype, [out]."""
    if piece.casts_itself:
        return piece.new_bias(bias).to(bias.dtype)
    return piece.new_bias(bias.to(torch.promote_types(piece._dtype, bias.dtype))).to(bias.dtype)


def run_around(
    piece: Around, call: Callable[..., Any], context: Context, module: nn.Module, /,
    *args: Any, **kwargs: Any,
) -> Any:  # fmt: skip
    """Call a piece around a module, under autocast where its own tensors have another dtype.

    What the module is given first, and what comes out first, has the dtype that it would have
    without the piece; so does all that runs inside.
    """
    if piece.uses_context:
        kwargs["context"] = context
    first = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)
    own, came = piece._dtype, None if first is None else _dtype_around(first, module)
    if piece.casts_itself or first is None or came is None or own == came:
        return piece(call, *args, **kwargs)
    if not (came in _LOW or own in _LOW):
        return piece(call, *args, **kwargs)
    kind = first.device.type
    outside = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
    gives = came

    def inside(*a: Any, **k: Any) -> Any:
        nonlocal gives
        if a:
            a = (_as_it_came(a[0], own, came), *a[1:])
        elif k:
            name = next(iter(k))
            k = {**k, name: _as_it_came(k[name], own, came)}
        with torch.autocast(kind, *outside):
            out = call(*a, **k)
        gives = _dtype_of(out) or came
        return out

    with torch.autocast(kind, came if came in _LOW else own):
        out = piece(inside, *args, **kwargs)
    return _typed(out, gives)


def _dtype_around(first: Tensor, module: nn.Module) -> torch.dtype | None:
    """Return the dtype of activations at a module; where it takes numbers, that of its tensors."""
    if first.is_floating_point():
        return first.dtype
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), None)


def _as_it_came(value: Any, own: torch.dtype, came: torch.dtype) -> Any:
    """Return what a piece hands to its module, not in the dtype of the piece's tensors."""
    return value.to(came) if isinstance(value, Tensor) and value.dtype == own else value


def _dtype_of(value: Any) -> torch.dtype | None:
    """Return the dtype of a floating tensor, or of the one with which a tuple begins."""
    if isinstance(value, tuple | list) and value:
        value = value[0]
    return value.dtype if isinstance(value, Tensor) and value.is_floating_point() else None


def _typed(value: Any, dtype: torch.dtype) -> Any:
    """Return a value whose tensor, or whose first one, has a dtype, where it has a floating one."""
    if _dtype_of(value) in (None, dtype):
        return value
    if isinstance(value, Tensor):
        return value.to(dtype)
    return type(value)((value[0].to(dtype), *value[1:]))
