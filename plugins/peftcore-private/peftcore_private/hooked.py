"""Gradients of single rows from one pass over a batch, by what goes into and out of each owner.

An owner is a piece, or a module of which the adapter trains parameters. What a row adds to the
gradient of an owner's tensors follows from the row's part of its input and of the gradient of its
output: by opacus' formulas for layers that it knows, by torch.func for pieces.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from peftcore import Adapter, Delta, Piece, Transform, bare_class


class Unhooked(NotImplementedError):
    """Rows cannot be told apart in a pass over a batch."""


class Record:
    """What went into and out of the owners in one pass.

    Attributes:
        outputs: what came out, whose gradients :meth:`gradients` is given.
    """

    def __init__(self, rows: int):
        self.rows = rows
        self.outputs: list[Tensor] = []
        self._calls: list[tuple[nn.Module, Tensor]] = []

    def add(self, owner: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Note a call; the first axis of what goes in and comes out must be the rows."""
        good = len(args) == 1 and isinstance(args[0], Tensor) and isinstance(output, Tensor)
        if not good or len(args[0]) != self.rows or len(output) != self.rows:
            raise Unhooked(f"{bare_class(owner).__name__} is not called on rows")
        if output.requires_grad:
            self.outputs.append(output)
            self._calls.append((owner, args[0].detach()))

    def gradients(self, of_outputs: Sequence[Tensor | None]) -> dict[nn.Parameter, Tensor]:
        """Return the gradient of each row, [rows, ...], by parameter."""
        found: dict[nn.Parameter, Tensor] = {}
        for (owner, x), grad in zip(self._calls, of_outputs, strict=True):
            if grad is None:
                continue
            make = _of_piece if isinstance(owner, Piece) else _of_layer
            for parameter, part in make(owner, x, grad).items():
                found[parameter] = found[parameter] + part if parameter in found else part
        return found


class Hooked:
    """The owners of what an adapter trains.

    Raises:
        Unhooked: one of them is of a kind whose rows cannot be told apart.
    """

    def __init__(self, adapter: Adapter, model: nn.Module):
        trained = {id(p) for p in adapter.parameters()}
        pieces = [i.piece for i in adapter.placed if _trains(i.piece, trained)]
        self.owners: list[nn.Module] = list(pieces)
        for piece in pieces:
            _check_piece(piece)
        carrying = {id(item.site.module) for item in adapter.placed}
        for swap in (s for s in adapter.swaps if s.selected.trained):
            for module, _ in swap.places:
                if bare_class(module) not in GradSampleModule.GRAD_SAMPLERS:
                    raise Unhooked(f"opacus has no formula for {bare_class(module).__name__}")
                if id(module) in carrying:
                    raise Unhooked(f"{swap.name} is trained in a layer that also has a piece")
                self.owners.append(module)
        self.owners = list(dict.fromkeys(self.owners))

    @contextmanager
    def recording(self, rows: int) -> Iterator[Record]:
        """Record the calls of one forward pass."""
        record = Record(rows)
        hooks = [owner.register_forward_hook(record.add) for owner in self.owners]
        try:
            yield record
        finally:
            for hook in hooks:
                hook.remove()


def _trains(piece: Piece, trained: set[int]) -> bool:
    return any(id(p) in trained for p in piece.parameters())


def _check_piece(piece: Piece) -> None:
    name = type(piece).__name__
    if not isinstance(piece, Delta | Transform) or piece.uses_context:
        raise Unhooked(f"{name} is more than a function of the rows that a layer is given")
    drops = [getattr(m, "dropout", 0) for m in piece.modules()]
    drops += [m.p for m in piece.modules() if isinstance(m, nn.Dropout)]
    if any(isinstance(p, float) and p > 0 for p in drops):
        raise Unhooked(f"{name} drops at random, which cannot be repeated for each row")


def _of_layer(layer: nn.Module, x: Tensor, grad: Tensor) -> dict[nn.Parameter, Tensor]:
    made = GradSampleModule.GRAD_SAMPLERS[bare_class(layer)](layer, [x], grad)
    return dict(made)


def _of_piece(piece: nn.Module, x: Tensor, grad: Tensor) -> dict[nn.Parameter, Tensor]:
    """Return the gradients of a piece's tensors by one pass of torch.func over the rows."""
    named = {name: p for name, p in piece.named_parameters() if p.requires_grad}

    def of_row(row: Tensor, out: Tensor) -> dict[str, Tensor]:
        def forward(tensors: dict[str, Tensor]) -> Tensor:
            made: Tensor = functional_call(piece, tensors, (row.unsqueeze(0),))
            return made.squeeze(0)

        _, pull = vjp(forward, {name: p.detach() for name, p in named.items()})
        return dict(pull(out)[0])

    with torch.enable_grad():
        made = vmap(of_row)(x, grad)
    return {named[name]: value.detach() for name, value in made.items()}
