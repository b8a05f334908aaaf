"""One walk over a model that finds its sites, blocks, stacks, and what is shared or tied."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from torch import nn

from peftcore.model.backbones import Backbone
from peftcore.model.globs import path_matches, path_pattern, translated
from peftcore.model.layers import (
    Layer,
    LayerInfo,
    first_parameter,
    handler_of,
    info_of,
    layer_of,
)
from peftcore.model.offloading import Keeper, is_hooked, keepers
from peftcore.model.sites import ParameterInfo, Site
from peftcore.model.walk import base_modules

_KIND_ROLES = {"linear": "linear", "norm": "norm", "embedding": "embeddings"}
#: Roles of parameters that targets do not choose by a role of a network.
_OUT_OF_REACH = ("", "head", "unused")
#: Number of names that a line shows.
_SHOWN = 5
_FUSED_LAYER = ("linear1", "linear2", "norm1", "norm2")


@dataclass
class Survey:
    """All that one walk over a model finds; asked once, and kept by the plan.

    Attributes:
        backbone: what knows the model.
        sites: every site, in model order.
        modules: every base module by path, pieces left out.
        shared: path of a module to all paths by which it can be reached, where there are several.
        tied: name of a parameter to all names by which it can be reached, where there are several.
        base: number of parameters of the bare model.
        blocks_base: number of parameters inside its blocks.
        blocks: number of its blocks.
        kept: by path, what keeps the weights of a module between calls, of an offloaded model.
    """

    backbone: Backbone
    sites: list[Site]
    modules: dict[str, nn.Module]
    shared: dict[str, list[str]]
    tied: dict[str, list[str]]
    base: int
    blocks_base: int
    blocks: int
    kept: dict[str, Keeper]
    _where: dict[str, _Where]

    @cached_property
    def parameters(self) -> list[ParameterInfo]:
        """Describe every parameter of the base model once, in model order."""
        whole = {s.path: s for s in reversed(self.sites) if s.features is None and not s.part}
        parts = {
            (s.path, leaf): s
            for s in reversed(self.sites)
            if s.part
            for leaf in (s.weight_name, s.bias_name)
        }
        own = _roles_by(self.backbone.parameter_globs())
        seen: set[int] = set()
        out = []
        for path, module in self.modules.items():
            site = whole.get(path)
            layer = layer_of(module)
            kind = layer.info(module).kind if layer and not site else "module"
            where = self._where[path]
            for leaf, parameter in module._parameters.items():
                if parameter is None or id(parameter) in seen:
                    continue
                seen.add(id(parameter))
                name = f"{path}.{leaf}" if path else leaf
                here = parts.get((path, leaf)) or site
                role = own.of(name) or (here.role if here else "")
                place = (role, here.kind if here else kind, where.block, self.blocks)
                stack = (where.stack, where.span)
                out.append(ParameterInfo(name, path, leaf, *place, parameter, *stack))
        return out

    @cached_property
    def places(self) -> tuple[Site | ParameterInfo, ...]:
        """Return what has a role: the sites, and parameters that have one of their own."""
        roles = self.backbone.parameter_roles
        return (*self.sites, *(p for p in (self.parameters if roles else ()) if p.role in roles))

    @cached_property
    def reachable(self) -> float:
        """Return the share of the parameters that lie where targets could choose something."""
        found = sum(p.parameter.numel() for p in self.parameters if p.role not in _OUT_OF_REACH)
        return found / self.base if self.base else 1.0

    @cached_property
    def share_of_experts(self) -> float:
        """Return the share of the parameters that experts hold."""
        held = sum(p.parameter.numel() for p in self.parameters if p.kind == "experts")
        return held / self.base if self.base else 0.0

    @cached_property
    def without_role(self) -> dict[str, int]:
        """Return sizes of parameters of no role by name, those of all blocks together."""
        sizes: dict[str, int] = {}
        for p in self.parameters:
            if not p.role:
                name = re.sub(r"\.\d+(?=\.)", ".*", p.name)
                sizes[name] = sizes.get(name, 0) + p.parameter.numel()
        return dict(sorted(sizes.items(), key=lambda item: -item[1]))

    def coverage(self) -> str:
        """Say what share of the parameters targets can reach, and what the others are."""
        sizes = dict.fromkeys(_OUT_OF_REACH, 0)
        for p in self.parameters:
            if p.role in sizes:
                sizes[p.role] += p.parameter.numel()
        whole = self.base or 1
        parts = [f"{role} {100 * n / whole:.1f} %" for role, n in sizes.items() if role and n]
        found = "; ".join([f"targets can reach {100 * self.reachable:.1f} % of the base", *parts])
        names = [f"{name} ({n:,})" for name, n in self.without_role.items()]
        if len(names) > _SHOWN:
            names[_SHOWN - 1 :] = [f"{len(names) - _SHOWN + 1} more"]
        return f"{found}; no role: {', '.join(names)}" if names else found

    def out_of_reach(self) -> str:
        """Return a sentence where targets can reach less than half of the parameters."""
        if self.reachable >= 0.5:
            return ""
        sizes: dict[str, int] = {}
        for p in self.parameters:
            if p.role in _OUT_OF_REACH:
                part = ".".join(p.path.split(".")[:2]) or p.name
                sizes[part] = sizes.get(part, 0) + p.parameter.numel()
        return (
            f"Targets can reach {100 * self.reachable:.0f} % of this model's parameters; the rest"
            f" lies in places that its backbone ({self.backbone.name}) gives no role, most of it in"
            f" {max(sizes, key=sizes.__getitem__)}. Name such places with path: globs."
        )

    @cached_property
    def read_directly(self) -> set[str]:
        """Return the names of the parameters that the model reads without calling their module."""
        found = set()
        for site in self.sites:
            if site.direct:
                prefix = f"{site.path}." if site.path else ""
                found |= {f"{prefix}{site.weight_name}", f"{prefix}{site.bias_name}"}
        return found

    @cached_property
    def _tokens_first(self) -> list[str]:
        return [
            path
            for path, module in self.modules.items()
            if getattr(module, "batch_first", True) is False
        ]

    @property
    def has_tokens_first(self) -> bool:
        """Whether a module of this model takes tokens on the first axis, and not rows."""
        return bool(self._tokens_first)

    def tokens_first(self, path: str) -> str | None:
        """Return a module around, inside, or in the block of a place that says that it takes
        [tokens, rows, features]; None where there is none.
        """
        block = self._where[path].block
        for other in self._tokens_first:
            in_block = block is not None and block == self._where[other].block
            if in_block or _within(path, other) or _within(other, path):
                return other
        return None

    def roles(self) -> dict[str, int]:
        """Count the places of each role."""
        return Counter(place.role for place in self.places)


def _within(path: str, other: str) -> bool:
    """Tell whether a path is that of a module or of something inside of it."""
    return not other or f"{path}.".startswith(f"{other}.")


@dataclass(slots=True)
class _Where:
    """In which block and stack a module is."""

    block: int | None = None
    stack: str = ""
    span: tuple[int, int] = (0, 0)


def survey(model: nn.Module, backbone: Backbone) -> Survey:
    """Find every site of a model in one walk."""
    modules: dict[str, nn.Module] = {}
    parents: list[nn.Module | None] = []
    first_path: dict[int, str] = {}
    first_name: dict[int, str] = {}
    shared: dict[str, list[str]] = {}
    tied: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for path, module, parent in base_modules(model):
        first = first_path.setdefault(id(module), path)
        if first is path:
            modules[path] = module
            parents.append(parent)
        else:
            shared.setdefault(first, [first]).append(path)
        prefix = f"{path}." if path else ""
        for leaf, parameter in module._parameters.items():
            if parameter is None:
                continue
            name = prefix + leaf
            known = first_name.setdefault(id(parameter), name)
            if known is name:
                sizes[path] = sizes.get(path, 0) + parameter.numel()
            else:
                tied.setdefault(known, [known]).append(name)
    roles = backbone.role_globs(model)
    where, blocks = _places(modules, roles.get("block", ()), backbone.stack_globs(model))
    kept = keepers(model) if any(map(is_hooked, modules.values())) else {}
    sites = list(_sites(model, backbone, modules, parents, roles, where, blocks, kept))
    base = sum(sizes.values())
    in_blocks = sum(size for path, size in sizes.items() if where[path].block is not None)
    return Survey(
        backbone, sites, modules, _by_each(shared), _by_each(tied), base, in_blocks, blocks, kept,
        where,
    )  # fmt: skip


def _by_each(found: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return each of several names of one thing with all of them."""
    return {name: names for names in found.values() for name in names}


def _places(
    modules: Mapping[str, nn.Module], blocks: Sequence[str], stacks: Mapping[str, Sequence[str]]
) -> tuple[dict[str, _Where], int]:
    """Return block and stack of each module, and the number of blocks; parents come first."""
    where: dict[str, _Where] = {}
    spans: dict[str, list[int]] = {}
    # looked up like a role, of which paths have one
    is_block = _roles_by((("block", tuple(blocks)),) if blocks else ()).of
    heads = [(name, path_pattern(tuple(globs)).fullmatch) for name, globs in stacks.items()]
    nowhere = _Where()
    count = 0
    for path in modules:
        here = where.get(path.rpartition(".")[0], nowhere) if path else nowhere
        stack = next((name for name, match in heads if match(path)), "") if heads else ""
        if is_block(path):
            here = _Where(count, stack or here.stack)
            spans.setdefault(here.stack, []).append(count)
            count += 1
        elif stack:
            here = _Where(here.block, stack)
        where[path] = here
    whole = (0, count)
    for here in {id(w): w for w in where.values()}.values():
        found = spans.get(here.stack) if here.stack else None
        here.span = (found[0], found[-1] + 1) if found else whole
    return where, count


class _Roles:
    """Finds the role of a path; paths recur from model to model of one family."""

    def __init__(self, globs: Sequence[tuple[str, tuple[str, ...]]]):
        arms = (f"(?P<r{i}>{'|'.join(map(translated, g))})" for i, (_, g) in enumerate(globs))
        self._match = re.compile("|".join(arms) or r"(?!)").fullmatch
        self._names = [name for name, _ in globs]
        self._known: dict[str, str] = {}

    def of(self, path: str) -> str:
        """Return the role of a path, or an empty string."""
        if path not in self._known:
            if len(self._known) > 1 << 16:
                self._known.clear()
            found = self._match(path)
            self._known[path] = self._names[int(str(found.lastgroup)[1:])] if found else ""
        return self._known[path]


@lru_cache(maxsize=64)
def _roles_by(globs: tuple[tuple[str, tuple[str, ...]], ...]) -> _Roles:
    return _Roles(globs)


def _sites(
    model: nn.Module,
    backbone: Backbone,
    modules: Mapping[str, nn.Module],
    parents: Sequence[nn.Module | None],
    roles: Mapping[str, Sequence[str]],
    where: Mapping[str, _Where],
    count: int,
    kept: Mapping[str, Keeper],
) -> Iterator[Site]:
    role_of = _roles_by(tuple((name, tuple(globs)) for name, globs in roles.items())).of
    fuses = type(backbone).slices is not Backbone.slices
    for (path, module), parent in zip(modules.items(), parents, strict=True):
        handler = handler_of(module)
        role = role_of(path)
        if handler is None and not role:
            continue
        here, keeper = where[path], kept.get(path)
        if isinstance(handler, Layer):
            info, name = handler.info(module), handler.weight_name
        else:
            if handler is not None:
                held = handler.layers(module)
                yield from _weights(held, path, module, here, count, keeper)
            if not role:
                continue
            info, name = info_of(module, backbone.width(model, path, module)), "weight"
        if kept or module._parameters.get("weight") is None:
            info = _where_it_computes(info, path, modules, kept)
        direct = _read_directly(path, parent, backbone)
        role = role or _structural_role(info.kind)
        rest = (direct, name, here.stack, here.span, False, keeper)
        yield Site(path, role, module, info, here.block, count, None, *rest)
        if not fuses:
            continue
        for part, (start, stop) in backbone.slices(path, role, info).items():
            sliced = _part(info, start, stop)
            yield Site(path, part, module, sliced, here.block, count, (start, stop), *rest)


def _where_it_computes(
    info: LayerInfo, path: str, modules: Mapping[str, nn.Module], kept: Mapping[str, Keeper]
) -> LayerInfo:
    """Return the layer on the device of its computation, which its own tensors may not tell."""
    module, above = modules[path], path
    tensors = (*module._parameters.values(), *module._buffers.values(), *module._modules.values())
    if all(tensor is None for tensor in tensors):
        # it computes where what encloses it does
        while above and first_parameter(modules[above]) is None:
            above = above.rpartition(".")[0]
        found = first_parameter(modules[above])
        info = info if found is None else info.on(found.device)
    if info.device.type != "meta" or not kept:
        return info
    inside = (k for p, k in kept.items() if not above or f"{p}.".startswith(f"{above}."))
    keeper = kept.get(above) or next(inside, None)
    return info if keeper is None else info.on(keeper.device)


def _read_directly(path: str, parent: nn.Module | None, backbone: Backbone) -> bool:
    """Tell whether the model reads a weight and never calls the module."""
    if isinstance(parent, nn.MultiheadAttention) and path.endswith("out_proj"):
        return True
    if isinstance(parent, nn.TransformerEncoderLayer):
        return path.rpartition(".")[2] in _FUSED_LAYER
    return bool(backbone.direct_weights) and path_matches(path, backbone.direct_weights)


def _structural_role(kind: str) -> str:
    return _KIND_ROLES.get(kind, "conv" if kind.startswith("conv") else kind)


def _part(info: LayerInfo, start: int, stop: int) -> LayerInfo:
    return LayerInfo(
        info.kind, info.in_features, stop - start, info.bias, info.dtype, info.device,
        (stop - start, *info.weight_shape[1:]),
    )  # fmt: skip


def _weights(
    held: Mapping[str, Layer],
    path: str,
    module: nn.Module,
    here: _Where,
    count: int,
    keeper: Keeper | None,
) -> Iterator[Site]:
    """Yield the weights that a module holds itself; of fused attention, its three parts as well."""
    for role, layer in held.items():
        info = layer.info(module)
        if keeper is not None:
            info = info.on(keeper.device)
        rest = (True, layer.weight_name, here.stack, here.span, True, keeper)
        if role != "attention.qkv":
            yield Site(path, role, module, info, here.block, count, None, *rest)
            continue
        whole, width = (0, info.out_features), info.out_features // 3
        yield Site(path, role, module, info, here.block, count, whole, *rest)
        for i, name in enumerate(("query", "key", "value")):
            features = (i * width, (i + 1) * width)
            part = _part(info, *features)
            yield Site(path, f"attention.{name}", module, part, here.block, count, features, *rest)
