"""Offering the sites of a model to the chosen methods, and checking the pieces that they return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from peftcore.adapter.unchanged import Unchanged
from peftcore.errors import AttachError, PeftcoreError, PluginError, first_line, nearest
from peftcore.method.examples import Examples
from peftcore.method.method import Method, Methods
from peftcore.method.pieces import (
    NEEDS,
    Around,
    Delta,
    Piece,
    Reparam,
    Transform,
    trainable_dtype,
)
from peftcore.method.placed import Placed
from peftcore.model.features import prompt_stack
from peftcore.model.layers import has_forward_of_its_own, layer_at
from peftcore.model.matching import check_shared
from peftcore.model.sites import Site
from peftcore.model.survey import Survey
from peftcore.registry.installed import installed

_KINDS = (Delta, Reparam, Transform, Around)


def prepare(
    methods: Methods,
    model: nn.Module,
    found: Survey,
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
                " attach(..., examples=peftcore.Examples(batches)), batches being the model's"
                " keyword arguments with labels."
            )
        before = Unchanged(found.modules)
        call(
            model=model, sites=sites, examples=examples if wanted else None, tensors=tensors,
            tokenizer=tokenizer,
        )  # fmt: skip
        before.check([method], "peftcore_prepare")


@torch.no_grad()
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
    whose = {method.name: _whose(method) for method in methods}
    taken: dict[tuple[str, int], list[Site]] = {}
    check = _Checks(found)
    callers = methods.each("peftcore_rewrite_module")
    before = Unchanged(found.modules)
    for site, call, method in _on_devices(sites, callers):
        place = method.label, id(site.module)
        if place in taken and any(site.inside(other) for other in taken[place]):
            continue
        try:
            result = call(site=site)
        except (PeftcoreError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise _blamed(method, site, error) from error
        if result is None:
            continue
        for key, piece in (result if isinstance(result, Mapping) else {"": result}).items():
            check(site, method, piece)
            _settle(piece, site, dtype)
            piece.__dict__["_place"] = whose[method.name], site.path, site.role
            if fresh and piece.starts:
                piece.start(site.weight)
            placed.append(Placed(site, method.label, key, piece))
        taken.setdefault(place, []).append(site)
    asked = [method for method, _ in callers]
    before.check(asked, "peftcore_rewrite_module")
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


def _whose(method: Method) -> str:
    return installed().whose("methods", method.name)


def _blamed(method: Method, site: Site, error: Exception) -> PluginError:
    return PluginError(
        f"{_whose(method)} failed at {site.here} in peftcore_rewrite_module: {first_line(error)}."
    )


def _named(thing: object) -> str:
    return f"a {type(thing).__name__}"


class _Checks:
    """Whether a piece can act where a method wants it."""

    def __init__(self, found: Survey):
        self._found = found
        self._seen: dict[int, Site] = {}

    @cached_property
    def _prompt_stack(self) -> str:
        return prompt_stack(self._found)

    @cached_property
    def _modules(self) -> dict[int, str]:
        return {id(module): path for path, module in self._found.modules.items()}

    @cached_property
    def _parameters(self) -> dict[int, str]:
        return {
            id(p): f"{path}.{leaf}" if path else leaf
            for path, module in self._found.modules.items()
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
            got = f"the class {piece.__name__}" if isinstance(piece, type) else _named(piece)
            raise PluginError(
                f"{_whose(method)} returned {got} for {site.here}; a piece is an instance of Delta,"
                " Reparam, Transform or Around."
            )
        other = self._seen.setdefault(id(piece), site)
        if other is not site:
            raise PluginError(
                f"{_whose(method)} returned one and the same {type(piece).__name__} for"
                f" {other.here} and {site.here}. Make one for each site; what they share comes from"
                " Method.shared."
            )
        self._check_parts(site, method, piece)
        self._check_needs(site, method, piece)
        self._check_kept(site, method)
        if site.features is not None and not piece.sliceable:
            raise AttachError(
                f"{method.name} cannot act at {site.name}: a {type(piece).__name__} edits a whole"
                " module, and this is a slice of one. Target the module."
            )
        if isinstance(piece, Reparam) and (layer := layer_at(site.module, site.weight_name)):
            layer.weight(site.module)  # raises where it cannot be read
            if not site.direct and has_forward_of_its_own(site.module):
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

    def _check_needs(self, site: Site, method: Method, piece: Piece) -> None:
        for need in piece.needs:
            if need not in NEEDS:
                raise PluginError(
                    f"{_whose(method)}: its {type(piece).__name__} needs {need!r}, which is no need"
                    f" that is known.{nearest(need, NEEDS)} There are: {', '.join(NEEDS)}."
                )
        reads = self._prompt_stack if method.reads_prompt and not site.crosses else ""
        if reads and site.stack != reads:
            raise AttachError(
                f"{method.name} cannot act at {site.here}: it counts the tokens of a prompt, which"
                f" the stack {reads} of this model reads, and what is written there follows a start"
                f" token. Write stack: {reads} in its targets, or leave it out with exclude."
            )
        first = self._found.tokens_first(site.path) if "rows-first" in piece.needs else None
        if first is not None:
            raise AttachError(
                f"{method.name} cannot act at {site.name}: {first or 'the model'} has"
                " batch_first=False, so that the first axis there is tokens and not the rows of a"
                " batch. Build the model with batch_first=True, or leave it out with exclude."
            )

    def _check_kept(self, site: Site, method: Method) -> None:
        """Refuse places whose offloaded weights are not brought in by a call of the place."""
        if not self._found.kept:
            return
        whole = next(
            (k for k in (self._found.kept.get(p) for p in _above(site.path)) if k and k.whole), None
        )
        if whole is not None or (site.keeper is not None and site.direct):
            raise AttachError(
                f"{method.name} cannot act at {site.here}: accelerate offloads the weights there,"
                + (
                    " and brings them in together with all that is inside of an enclosing module"
                    " (preload_module_classes), a piece's tensors among them."
                    if whole
                    else " and the model reads them without calling their module."
                )
                + " Keep this module on its device with a device_map, or leave it out with exclude."
            )

    def _check_parts(self, site: Site, method: Method, piece: Piece) -> None:
        held = ""
        if piece._modules:
            inside = (self._modules.get(id(m)) for m in piece.modules() if m is not piece)
            held = next((f"module {path}" for path in inside if path is not None), "")
        if not held:
            own = piece.parameters() if piece._modules else piece._parameters.values()
            known = self._parameters
            held = next((f"parameter {known[id(p)]}" for p in own if id(p) in known), "")
        if held:
            raise PluginError(
                f"{_whose(method)}: its {type(piece).__name__} for {site.here} holds the model's"
                f" {held} as a part of itself. Keep what it needs of the model in a tuple or a"
                " dataclass, or read it from the site."
            )


def _above(path: str) -> Iterator[str]:
    """Yield a path and those of all modules that enclose it."""
    yield path
    while path:
        path = path.rpartition(".")[0]
        yield path


def _settle(piece: Piece, site: Site, dtype: torch.dtype | None) -> None:
    """Put a piece on the device of its layer, in the dtype that it is trained in."""
    layer = site.layer
    want = dtype or trainable_dtype(layer.dtype)
    # most pieces have no submodules, and walking modules is slow when there are thousands
    tensors = piece.state_dict().values() if piece._modules else _own_tensors(piece)
    for tensor in tensors:
        kept = tensor.dtype == want or not tensor.is_floating_point()
        if not kept or tensor.device != layer.device:
            piece.to(device=site.layer.device, dtype=want)
            break
    piece.__dict__["_dtype"] = want


def _own_tensors(piece: Piece) -> list[Tensor]:
    return [t for t in (*piece._parameters.values(), *piece._buffers.values()) if t is not None]
