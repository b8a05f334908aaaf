"""Sites: the concrete places of one model, found by role."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from peftcore.errors import AttachError
from peftcore.model.globs import _translate, path_matches
from peftcore.model.layers import InProjection, LayerInfo, info_of, layer_of
from peftcore.model.targets import Targets, setting_for
from peftcore.model.walk import base_modules

if TYPE_CHECKING:
    from peftcore.model.backbones import Backbone

_KIND_ROLES = {"linear": "linear", "norm": "norm", "embedding": "embeddings"}
_FUSED_LAYER = ("linear1", "linear2", "norm1", "norm2")


@dataclass(frozen=True)
class Site:
    """One concrete place in one model.

    Attributes:
        path: dotted path of the module; empty for the model itself.
        role: role of the place.
        module: the module itself. A method must not change it.
        layer: sizes and dtype; of the slice, where the site is one.
        block: index of the block that holds it, or None.
        blocks: number of blocks of the model.
        rows: (start, stop) of the output features, where the role is a slice of a fused layer.
        direct: the model reads the weight and never calls the module.
        weight_name: name of the parameter that holds the weight.
    """

    path: str
    role: str
    module: nn.Module
    layer: LayerInfo
    block: int | None = None
    blocks: int = 0
    rows: tuple[int, int] | None = None
    direct: bool = False
    weight_name: str = "weight"

    @property
    def kind(self) -> str:
        """Kind of the layer: ``linear``, ``norm``, ``module``, ..."""
        return self.layer.kind

    @property
    def bias_name(self) -> str:
        """Name of the parameter that holds the bias, where there is one."""
        return self.weight_name.removesuffix("weight") + "bias"

    @property
    def name(self) -> str:
        """The path, with the role where several sites share one module."""
        return f"{self.path}[{self.role}]" if self.rows else self.path

    @property
    def here(self) -> str:
        """The place as sentences name it: path and role."""
        return f"{self.name or 'the model'} ({self.role})"

    def weight(self) -> torch.Tensor:
        """Return the weight here, [out, in, ...], without gradient; dequantised, of the slice."""
        fused = self.weight_name == InProjection.weight_name
        layer = InProjection() if fused else layer_of(self.module)
        assert layer is not None
        weight = layer.weight(self.module).detach()
        return weight[slice(*self.rows)] if self.rows else weight

    def matches(self, targets: Targets) -> bool:
        """Tell whether targets choose this site."""
        return targets.match(self)

    def setting(self, value: Any) -> Any:
        """Return what a :data:`peftcore.PerRole` value says for this site."""
        return setting_for(value, self.role, self.path)


@dataclass(frozen=True)
class ParameterInfo:
    """One parameter of the base model, as methods that select parameters see it.

    Attributes:
        name: dotted name in the model.
        path: path of its module.
        leaf: its name in the module: ``weight``, ``bias``.
        role: role of its module, or an empty string.
        kind: kind of its module: ``linear``, ``norm``, ...
        block: index of the block that holds it, or None.
        blocks: number of blocks of the model.
        parameter: the parameter itself. A method must not change it.
    """

    name: str
    path: str
    leaf: str
    role: str
    kind: str
    block: int | None
    blocks: int
    parameter: nn.Parameter

    def matches(self, targets: Targets) -> bool:
        """Tell whether targets choose the module of this parameter."""
        return targets.match(self)


@dataclass
class Survey:
    """All that one walk over a model finds.

    Attributes:
        sites: every site, in model order.
        modules: every base module by path, pieces left out.
        shared: module paths by which one module can be reached, where there are several.
        tied: parameter names by which one parameter can be reached, where there are several.
        base: number of parameters of the bare model.
        blocks_base: number of parameters inside its blocks.
    """

    sites: list[Site]
    modules: dict[str, nn.Module]
    shared: dict[int, list[str]]
    tied: dict[int, list[str]]
    base: int
    blocks_base: int
    _blocks: dict[str, int]

    @cached_property
    def parameters(self) -> list[ParameterInfo]:
        """Describe every parameter of the base model once, in model order."""
        whole = {s.path: s for s in reversed(self.sites) if s.rows is None}
        count = len(self._blocks)
        seen: set[int] = set()
        out = []
        for path, module in self.modules.items():
            site = whole.get(path)
            layer = layer_of(module)
            kind = site.layer.kind if site else layer.info(module).kind if layer else "module"
            for leaf, parameter in module._parameters.items():
                if parameter is None or id(parameter) in seen:
                    continue
                seen.add(id(parameter))
                name = f"{path}.{leaf}" if path else leaf
                role = site.role if site else ""
                block = _block_of(path, self._blocks)
                # the fused projection of nn.MultiheadAttention is no module with a role of its own
                fused = leaf.startswith("in_proj_")
                place = ("attention.qkv", "linear") if fused else (role, kind)
                out.append(ParameterInfo(name, path, leaf, *place, block, count, parameter))
        return out

    def roles(self) -> dict[str, int]:
        """Count the sites of each role."""
        counts: dict[str, int] = {}
        for site in self.sites:
            counts[site.role] = counts.get(site.role, 0) + 1
        return counts


def survey(model: nn.Module, backbone: Backbone) -> Survey:
    """Find every site of a model in one walk."""
    modules: dict[str, nn.Module] = {}
    parents: dict[str, nn.Module | None] = {}
    by_module: dict[int, list[str]] = {}
    by_parameter: dict[int, list[str]] = {}
    sizes: list[tuple[str, int]] = []
    for path, module, parent in base_modules(model):
        paths = by_module.setdefault(id(module), [])
        paths.append(path)
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                name = f"{path}.{leaf}" if path else leaf
                names = by_parameter.setdefault(id(parameter), [])
                if not names:
                    sizes.append((path, parameter.numel()))
                names.append(name)
        if len(paths) > 1:
            continue
        modules[path] = module
        parents[path] = parent
    roles = backbone.role_globs(model)
    block_paths = {
        path: i
        for i, path in enumerate(p for p in modules if path_matches(p, roles.get("block", ())))
    }
    sites = list(_sites(modules, parents, roles, block_paths, backbone, model))
    shared = {key: paths for key, paths in by_module.items() if len(paths) > 1}
    tied = {key: names for key, names in by_parameter.items() if len(names) > 1}
    base = sum(size for _, size in sizes)
    in_blocks = sum(size for path, size in sizes if _block_of(path, block_paths) is not None)
    return Survey(sites, modules, shared, tied, base, in_blocks, block_paths)


def _sites(
    modules: Mapping[str, nn.Module],
    parents: Mapping[str, nn.Module | None],
    roles: Mapping[str, Sequence[str]],
    block_paths: dict[str, int],
    backbone: Backbone,
    model: nn.Module,
) -> Iterator[Site]:
    names = list(roles)
    pattern = re.compile(
        "|".join(
            f"(?P<r{i}>{'|'.join(_translate(g) for g in roles[n])})" for i, n in enumerate(names)
        )
        or r"(?!)"
    )
    count = len(block_paths)
    for path, module in modules.items():
        block = _block_of(path, block_paths)
        found = pattern.fullmatch(path)
        layer = layer_of(module)
        role = names[int(str(found.lastgroup)[1:])] if found else ""
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            yield from _fused_attention(path, module, block, count)
        if not role and layer is None:
            continue
        parent = parents[path]
        width = None if layer else backbone.width(model, path, module)
        info = layer.info(module) if layer else info_of(module, width)
        direct = (
            (isinstance(parent, nn.MultiheadAttention) and path.endswith("out_proj"))
            or (
                isinstance(parent, nn.TransformerEncoderLayer)
                and path.rsplit(".", 1)[-1] in _FUSED_LAYER
            )
            or (bool(backbone.direct_weights) and path_matches(path, backbone.direct_weights))
        )
        role = role or _structural_role(info.kind)
        name = layer.weight_name if layer else "weight"
        yield Site(path, role, module, info, block, count, None, direct, name)
        for part, (start, stop) in backbone.slices(path, role, info).items():
            yield Site(
                path, part, module, _part(info, start, stop), block, count, (start, stop),
                direct, name,
            )  # fmt: skip


def _structural_role(kind: str) -> str:
    return _KIND_ROLES.get(kind, "conv" if kind.startswith("conv") else kind)


def _part(info: LayerInfo, start: int, stop: int) -> LayerInfo:
    return LayerInfo(
        info.kind, info.in_features, stop - start, info.bias, info.dtype, info.device,
        (stop - start, *info.weight_shape[1:]),
    )  # fmt: skip


def _fused_attention(
    path: str, module: nn.MultiheadAttention, block: int | None, count: int
) -> Iterator[Site]:
    info = InProjection().info(module)
    name = InProjection.weight_name
    whole = (0, info.out_features)
    yield Site(path, "attention.qkv", module, info, block, count, whole, True, name)
    width = info.out_features // 3
    for i, part in enumerate(("query", "key", "value")):
        rows = (i * width, (i + 1) * width)
        yield Site(
            path, f"attention.{part}", module, _part(info, *rows), block, count, rows, True, name
        )


def _block_of(path: str, block_paths: Mapping[str, int]) -> int | None:
    while path:
        if path in block_paths:
            return block_paths[path]
        path = path.rpartition(".")[0]
    return None


def check_targets(survey: Survey, config_name: str, targets: Mapping[str, Targets]) -> list[str]:
    """Return one sentence for each target pattern that matches nothing."""
    found = []
    for field, chosen in targets.items():
        try:
            if chosen.layers != "all":
                chosen.indices(len(survey._blocks))
        except Exception as error:
            found.append(f"{config_name}.{field}: {error}")
            continue
        for pattern in (*chosen.roles, *chosen.exclude):
            one = Targets(roles=(pattern,))
            if not any(one.match(site) for site in survey.sites):
                found.append(
                    f"{config_name}.{field}: {pattern!r} matches nothing in this model."
                    f"{_nearest_role(pattern, survey)} Roles here: {_roles(survey)}."
                )
        if not found and not any(chosen.match(site) for site in survey.sites):
            found.append(f"{config_name}.{field}: no site is left after layers and exclude.")
    return found


def _nearest_role(pattern: str, survey: Survey) -> str:
    from peftcore.errors import nearest

    return nearest(pattern, survey.roles())


def _roles(survey: Survey) -> str:
    return ", ".join(sorted(survey.roles())) or "none"


def check_shared(survey: Survey, sites: Sequence[Site]) -> None:
    """Refuse to rewrite a module that the model uses in several places."""
    for site in sites:
        paths = survey.shared.get(id(site.module))
        if paths:
            raise AttachError(
                f"{paths[0]} and {paths[1]} are one and the same module; a piece there would act in"
                " both places. Exclude it, or give each place its own copy of the module."
            )
