"""What merging changes: each parameter, its new value, and how to give the old one back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from peftcore.adapter.state import Attached, Swap
from peftcore.errors import MergeError
from peftcore.method.placed import Placed
from peftcore.model.layers import Layer, layer_at
from peftcore.run.folding import folded, rebiased_by
from peftcore.store.fingerprint import look

#: Name of a tied parameter to all its names.
Tied = dict[str, list[str]]


@dataclass
class Change:
    """One parameter that an adapter changes when it is merged.

    Attributes:
        name: name of the parameter.
        module, leaf: where it is.
        make: makes its new value of the one before, in the same dtype; of no bias, one in the
            layer's dtype, or none where nothing changes.
    """

    name: str
    module: nn.Module
    leaf: str
    make: Callable[[Tensor | None], Tensor | None]

    @property
    def value(self) -> Tensor | None:
        """The value that is there; None for a bias that the layer does not have yet."""
        parameter = self.module._parameters[self.leaf]
        return None if parameter is None else parameter.data

    def made(self, old: Tensor | None) -> Tensor | None:
        """Return the new value.

        Raises:
            MergeError: it is not finite where the old one is.
        """
        new = self.make(old)
        if new is not None and not bool(torch.isfinite(new).all()):
            finite = old is None or bool(torch.isfinite(old).all())
            if finite:
                raise MergeError(
                    f"{self.name} would hold NaN or infinite values: the adapter's are not finite,"
                    f" or too large for {new.dtype}. Nothing was merged; keep the adapter attached,"
                    " or load the base in a wider dtype."
                )
        return new

    def write(self, new: Tensor | None) -> nn.Parameter | None:
        """Put a value into the model; return the parameter that holds it."""
        parameter = self.module._parameters[self.leaf]
        if new is None:
            return parameter
        if parameter is None:
            parameter = nn.Parameter(new, requires_grad=False)
            self.module._parameters[self.leaf] = parameter
        else:
            parameter.data = new
            increment_version(parameter)  # a graph that needs the value before fails, aloud
        return parameter


class Seen:
    """A merged value as it was written, for telling whether it is still the same."""

    def __init__(self, parameter: nn.Parameter):
        self.version: int | None = parameter._version
        self.dtype = parameter.dtype
        self.bits = _bits(parameter)
        self.some = look(parameter.detach()).values.clone()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "version": None}  # the number of writes is not copied

    def still(self, parameter: nn.Parameter) -> bool:
        """Tell whether nobody has written to it; a model that was cast or moved has not."""
        if self.version not in (None, parameter._version):
            return False
        if parameter.dtype == self.dtype and _bits(parameter) == self.bits:
            return True
        now = look(parameter.detach()).values
        if now.shape != self.some.shape:
            return False
        # there and back again, it is rounded as the dtype between rounds
        between = {parameter.dtype, torch.float16, torch.bfloat16} - {self.dtype}
        return any(torch.equal(now, self.some.to(d).to(now.dtype)) for d in between)


def _bits(parameter: nn.Parameter) -> int:
    """Return a sum over the bits of all values, which one changed value changes."""
    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    whole = parameter.detach()
    return int(whole.contiguous().view(sizes[whole.element_size()]).sum(dtype=torch.int64))


class Undo:
    """What a merged parameter was, and how to tell whether anyone has touched it since."""

    def __init__(self, change: Change):
        self.change = change
        self.before = change.value
        self.parameter = change.write(change.made(self.before))
        self.seen = None if self.parameter is None else Seen(self.parameter)

    @property
    def place(self) -> tuple[int, str]:
        """The module's id and the parameter's name in it."""
        return id(self.change.module), self.change.leaf

    def check(self) -> None:
        """Raise where the merged value is not there any more.

        Raises:
            MergeError: weights were loaded, replaced or written to while merged.
        """
        parameter = self.change.module._parameters.get(self.change.leaf)
        if parameter is self.parameter and (
            parameter is None or self.seen is None or self.seen.still(parameter)
        ):
            return
        raise MergeError(
            f"{self.change.name} was loaded, replaced or written to while an adapter was merged;"
            " unmerging would throw that away. Take the merge as final with"
            " peftcore.merge_and_unload, or load the base anew."
        )

    def __call__(self) -> None:
        """Give the parameter back, on the device and in the dtype that the model has by now."""
        if self.before is None:
            self.change.module._parameters[self.change.leaf] = None
        elif self.parameter is not None:
            self.parameter.data = self.before.to(self.parameter.data)
            increment_version(self.parameter)


def handler_of(item: Placed) -> Layer | None:
    """Return the handler of the layer, or fused projection, that a piece is at."""
    return layer_at(item.site.module, item.site.weight_name)


def name_of(item: Placed, leaf: str) -> str:
    """Return the name in the model of a parameter beside a piece."""
    return f"{item.site.path}.{leaf}".removeprefix(".")


def values(adapter: Attached) -> Iterator[Change]:
    """Yield the base parameters that an adapter has values of its own for."""
    for swap in adapter.swaps:
        module, leaf = swap.places[0]
        yield Change(swap.selected.info.name, module, leaf, partial(_own, swap))


def _own(swap: Swap, old: Tensor | None) -> Tensor:
    assert old is not None
    return swap.own.detach().to(old, copy=True)


def folds(adapter: Attached, tied: Tied) -> Iterator[Change]:
    """Yield the weights and biases that an adapter's pieces change, once each."""
    by_module: dict[tuple[int, str], list[Placed]] = {}
    for item in adapter.placed:
        by_module.setdefault((id(item.site.module), item.site.weight_name), []).append(item)
    folded_in: set[str] = set()  # tied parameters, all of whose places change in the same way
    for items in by_module.values():
        site = items[0].site
        name = name_of(items[0], site.weight_name)
        if name not in folded_in and any(item.piece.changes_weight for item in items):
            folded_in.update(tied.get(name, ()))
            yield Change(name, site.module, site.weight_name, partial(_weight, items))
        changing = [item for item in items if item.piece.changes_bias]
        if changing:
            leaf = site.bias_name
            yield Change(name_of(items[0], leaf), site.module, leaf, partial(_bias, changing))


def _weight(items: list[Placed], old: Tensor | None) -> Tensor:
    assert old is not None
    return folded_into(old, items)


@torch.no_grad()
def folded_into(stored: Tensor, items: list[Placed]) -> Tensor:
    """Return a stored weight with pieces folded in, in its dtype."""
    changing = [item for item in items if item.piece.changes_weight]
    # a sum in bf16 loses more than the rounding of its result
    wide = torch.promote_types(stored.dtype, torch.float32)
    return folded(stored.to(wide), changing, handler_of(items[0])).to(stored.dtype).contiguous()


@torch.no_grad()
def _bias(changing: list[Placed], old: Tensor | None) -> Tensor | None:
    """Return the new bias; None where there is none that only a factor would change."""
    site = changing[0].site
    if old is not None:
        wide = torch.promote_types(old.dtype, torch.float32)
        return rebiased_by(old.to(wide), changing).to(old.dtype)
    adding = [item for item in changing if not item.piece.scales_bias]
    if not adding:
        return None
    layer = handler_of(changing[0])
    assert layer is not None
    wide = torch.promote_types(site.layer.dtype, torch.float32)
    width = layer.info(site.module).out_features
    zero = torch.zeros(width, dtype=wide, device=site.layer.device)
    return rebiased_by(zero, adding).to(site.layer.dtype)
