"""Offering the sites of a model to the chosen methods, and checking the pieces that they return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from peftcore.errors import AttachError, PluginError
from peftcore.method.examples import Examples
from peftcore.method.method import Method, Methods
from peftcore.method.pieces import Around, Delta, Piece, Reparam, Transform, trainable_dtype
from peftcore.method.placed import Placed
from peftcore.model.layers import has_forward_of_its_own, layer_of
from peftcore.model.sites import Site
from peftcore.model.survey import Survey, check_shared
from peftcore.registry.installed import installed

_KINDS = (Delta, Reparam, Transform, Around)


def prepare(
    methods: Methods,
    model: nn.Module,
    sites: Sequence[Site],
    examples: Examples | None,
    tensors: Mapping[str, Tensor] | None,
    tokenizer: Any,
    *,
    planned: bool,
) -> None:
    """Let the methods look at the model and at examples before they are asked for pieces.

    Raises:
        AttachError: a method asks for examples and there are none.
        PluginError: a method changed the model.
    """
    for method, call in methods.each("peftcore_prepare"):
        wanted = 0 if planned or tensors is not None else method.examples
        if wanted and examples is None:
            raise AttachError(
                f"{method.label} looks at {wanted} examples before it starts: give them as"
                " attach(..., examples=Examples(batches)), batches being the model's keyword"
                " arguments with labels."
            )
        before = _content(model.modules())
        call(
            model=model, sites=sites, examples=examples if wanted else None, tensors=tensors,
            tokenizer=tokenizer,
        )  # fmt: skip
        if _content(model.modules()) != before:
            raise PluginError(f"{_whose(method)} changed the model in peftcore_prepare.")


def offer(
    methods: Methods, found: Survey, sites: Sequence[Site], dtype: torch.dtype | None, *,
    fresh: bool,
) -> list[Placed]:  # fmt: skip
    """Offer every site to every method, and return the pieces that they want there.

    Whoever takes a fused layer whole is not offered its slices.

    Args:
        methods: the methods.
        found: the survey of the model.
        sites: its sites, on the device where the pieces are to be.
        dtype: dtype of the pieces' tensors; at least fp32 where it is None.
        fresh: the adapter is new, so that the pieces are set to their start.

    Raises:
        AttachError: a piece cannot act where a method wants it.
        PluginError: a method returned no piece, or changed the model.
    """
    placed: list[Placed] = []
    whole: set[tuple[str, int, str]] = set()
    check = _Checks(found)
    callers = methods.each("peftcore_rewrite_module")
    for site, call, method in _on_devices(sites, callers):
        taken = (method.label, id(site.module), site.weight_name)
        if site.features is not None and taken in whole:
            continue
        before = _content([site.module])
        result = call(site=site)
        if result is None:
            continue
        if _content([site.module]) != before:
            raise PluginError(f"{_whose(method)} changed {site.here} in peftcore_rewrite_module.")
        for key, piece in (result if isinstance(result, Mapping) else {"": result}).items():
            check(site, method, piece)
            _settle(piece, site, dtype)
            piece.__dict__["_place"] = f" of {method.label} at {site.here}"
            if fresh and piece.starts:
                with torch.no_grad():
                    piece.start(site.weight)
            placed.append(Placed(site, method.label, key, piece))
        if site.features is None or site.features == (0, _width(site)):
            whole.add(taken)
    check_shared(found, [item.site for item in placed])
    return placed


def _on_devices(
    sites: Sequence[Site], callers: Sequence[tuple[Method, Callable[..., Any]]]
) -> Iterator[tuple[Site, Callable[..., Any], Method]]:
    """Yield each site with each method, under the device of the site as the default one."""
    default = torch.get_default_device()
    for device, there in groupby(sites, key=lambda site: site.layer.device):
        with nullcontext() if device == default else torch.device(device):
            for site in there:
                for method, call in callers:
                    yield site, call, method


def _width(site: Site) -> int:
    layer = layer_of(site.module)
    return layer.info(site.module).out_features if layer else site.layer.out_features


def _content(modules: Any) -> list[tuple[Any, ...]]:
    """Return what differs once someone changed modules: classes, children, tensors, values."""
    return [
        (
            type(m),
            *m._modules,
            *[(id(p), p._version) for p in m._parameters.values() if p is not None],
        )
        for m in modules
    ]


def _whose(method: Method) -> str:
    owner = installed().owner("methods", method.name)
    return f"method {method.name} of {owner.distribution}"


class _Checks:
    """Whether a piece can act where a method wants it."""

    def __init__(self, found: Survey):
        self._modules = {id(module): path for path, module in found.modules.items()}
        self._parameters = {
            id(p): f"{path}.{leaf}" if path else leaf
            for path, module in found.modules.items()
            for leaf, p in module._parameters.items()
            if p is not None
        }

    def __call__(self, site: Site, method: Method, piece: Any) -> None:
        """Raise for a piece that cannot act at a site.

        Raises:
            PluginError: it is no piece, or holds a part of the model.
            AttachError: its kind cannot act there.
        """
        if not isinstance(piece, _KINDS):
            raise PluginError(
                f"{_whose(method)} returned a {type(piece).__name__} for {site.here}; a piece is a"
                " Delta, Reparam, Transform or Around."
            )
        self._check_parts(site, method, piece)
        if site.features is not None and not piece.sliceable:
            raise AttachError(
                f"{method.name} cannot act at {site.name}: a {type(piece).__name__} edits a whole"
                " module, and this is a slice of one. Target the module."
            )
        if isinstance(piece, Reparam) and (layer := layer_of(site.module)):
            layer.weight(site.module)  # raises where it cannot be read
            given_up = not piece.has_through and not site.direct
            if given_up and has_forward_of_its_own(site.module):
                raise AttachError(
                    f"{method.name} cannot act at {site.name}: a {type(site.module).__name__}"
                    " computes more than the layer that it is made from, and with another weight"
                    " that would be lost. Leave it out with exclude, or bring a handler of its type"
                    " with peftcore_register_layers."
                )
        if site.direct and piece.changes_bias and isinstance(piece, Delta) and not site.layer.bias:
            raise AttachError(
                f"{method.name} cannot act at {site.name}: the model reads the weight there and"
                f" never calls the layer, which has no bias that {type(piece).__name__} could"
                " change. Leave it out with exclude."
            )
        if site.direct and not piece.changes_weight:
            raise AttachError(
                f"{method.name} cannot act at {site.name}: the model reads the weight there and"
                f" never calls the layer, and {type(piece).__name__} is no change of a weight."
                " Leave it out with exclude."
            )

    def _check_parts(self, site: Site, method: Method, piece: Piece) -> None:
        held = ""
        if piece._modules:
            inside = (self._modules.get(id(m)) for m in piece.modules() if m is not piece)
            held = next((f"module {path}" for path in inside if path is not None), "")
        if not held:
            own = (self._parameters.get(id(p)) for p in piece.parameters())
            held = next((f"parameter {name}" for name in own if name is not None), "")
        if held:
            raise PluginError(
                f"{_whose(method)}: its {type(piece).__name__} for {site.here} holds the model's"
                f" {held} as a part of itself. Keep what it needs of the model in a tuple or a"
                " dataclass, or read it from the site."
            )


def _settle(piece: Piece, site: Site, dtype: torch.dtype | None) -> None:
    """Put a piece on the device of its layer, in the dtype that it is trained in."""
    want = dtype or trainable_dtype(site.layer.dtype)
    # most pieces have no submodules, and walking modules is slow when there are thousands
    tensors = piece.state_dict().values() if piece._modules else _own_tensors(piece)
    for tensor in tensors:
        wrong_dtype = tensor.is_floating_point() and tensor.dtype != want
        if wrong_dtype or tensor.device != site.layer.device:
            piece.to(device=site.layer.device, dtype=want)
            break
    piece.__dict__["_dtype"] = want


def _own_tensors(piece: Piece) -> list[Tensor]:
    return [t for t in (*piece._parameters.values(), *piece._buffers.values()) if t is not None]
