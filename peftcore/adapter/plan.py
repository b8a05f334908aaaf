"""What attaching would do: selected parameters and pieces per site, made before any change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from peftcore.adapter.offer import place, prepare
from peftcore.errors import AttachError, ConfigError, TargetError, nearest
from peftcore.method.examples import Examples
from peftcore.method.method import Method, MethodChoice, Methods, make_methods
from peftcore.method.pieces import Piece
from peftcore.method.placed import Placed
from peftcore.model.backbones import Backbone, backbone_named, backbone_of
from peftcore.model.globs import path_matches, role_matches
from peftcore.model.sites import ParameterInfo, Survey, check_targets, survey
from peftcore.model.targets import per_role_fields, targets_of
from peftcore.registry.installed import installed

#: Labels under which full modules are stored.
SAVED, FROZEN = "modules_to_save", "save_frozen"


@dataclass(frozen=True)
class Selected:
    """One base parameter that an adapter holds a value of its own for.

    Attributes:
        info: the parameter.
        label: method that selected it, or ``modules_to_save`` or ``save_frozen``.
        trained: whether it is trained, or only stored.
    """

    info: ParameterInfo
    label: str
    trained: bool = True

    @property
    def name(self) -> str:
        """Name in a checkpoint."""
        return ".".join(part for part in (self.info.path, self.label, self.info.leaf) if part)


@dataclass
class Plan:
    """What an adapter would put on a model; print it before anything is touched.

    Attributes:
        methods: the chosen methods, in order.
        backbone: what knows the model.
        placed: the pieces, in model order.
        selected: base parameters with a value of their own.
        base: number of parameters of the bare model.
        blocks_base: number of parameters inside its blocks.
        modules_to_save, save_frozen: as they were given.
        survey: what the walk over the model found; dropped once the plan is carried out.
    """

    methods: list[Method]
    backbone: Backbone
    placed: list[Placed]
    selected: list[Selected]
    base: int
    blocks_base: int
    modules_to_save: tuple[str, ...] = ()
    save_frozen: tuple[str, ...] = ()
    survey: Survey | None = field(repr=False, default=None)

    @property
    def head(self) -> int:
        """Number of trainable parameters of ``modules_to_save``, counted apart."""
        return sum(s.info.parameter.numel() for s in self.selected if s.label == SAVED)

    @property
    def trainable(self) -> int:
        """Number of trainable parameters of the methods, without ``modules_to_save``."""
        return sum(row[-1] for row in self.rows if row[0] not in (SAVED, FROZEN))

    def percent(self, convention: str = "of_total") -> float:
        """Return the trainable share in percent.

        Args:
            convention: ``of_total`` is 100 k / (N0 + k) as Hugging Face PEFT prints, ``of_base``
                is 100 k / N0 as pyreft prints, ``of_blocks`` is over the blocks' parameters.
                k counts only what a method adds or selects; selected parameters are part of N0.
        """
        added = sum(p.numel() for p in _unique(i.piece for i in self.placed) if p.requires_grad)
        whole = {
            "of_total": self.base + added, "of_base": self.base, "of_blocks": self.blocks_base,
        }  # fmt: skip
        if convention not in whole:
            raise ConfigError(f"{convention!r} is not a percentage convention: {', '.join(whole)}.")
        return 100 * self.trainable / whole[convention] if whole[convention] else float("nan")

    @property
    def rows(self) -> list[tuple[str, str, int, int]]:
        """(method, role, number of sites, trainable parameters), one row a method and role."""
        table: dict[tuple[str, str], list[int]] = {}
        seen: set[int] = set()
        for item in self.placed:
            new = [p for p in item.piece.parameters() if p.requires_grad and id(p) not in seen]
            seen.update(map(id, new))
            row = table.setdefault((item.label, item.site.role), [0, 0])
            row[0] += 1
            row[1] += sum(p.numel() for p in new)
        for chosen in self.selected:
            row = table.setdefault((chosen.label, chosen.info.role or "other"), [0, 0])
            row[0] += 1
            row[1] += chosen.info.parameter.numel() if chosen.trained else 0
        return [(label, role, *counts) for (label, role), counts in table.items()]  # type: ignore

    def __str__(self) -> str:
        return self.table()

    def table(self, convention: str = "of_total") -> str:
        """Return a table of methods and roles, with the trainable share in one convention."""
        lines = [f"{'method':<18}{'role':<26}{'sites':>7}{'trainable':>15}"]
        lines += [f"{m:<18}{role:<26}{n:>7}{k:>15,}" for m, role, n, k in self.rows]
        lines.append(
            f"trainable {self.trainable:,} of {self.base:,}"
            f" = {self.percent(convention):.4f} % {convention}"
            + (f"; head {self.head:,} besides" if self.head else "")
        )
        return "\n".join(lines)


def plan(
    model: nn.Module,
    methods: MethodChoice | Sequence[MethodChoice],
    *,
    backbone: str | None = None,
    modules_to_save: Sequence[str] = (),
    save_frozen: Sequence[str] = (),
    **config: Any,
) -> Plan:
    """Return what :func:`attach` would do, without memory for the pieces.

    Works for a model on the meta device, so the counts of a large model take seconds.

    Args:
        model: any module.
        methods: a method's name with its configuration as keywords, or a list of names and
            mappings ``{"method": name, ...}``.
        backbone: name of the backbone plugin; found from the model where it is not given.
        modules_to_save: roles or ``path:`` globs of modules that are trained whole.
        save_frozen: the same for modules that are stored with the adapter but not trained.
        config: configuration of the one method.

    Raises:
        ConfigError: a configuration is wrong or a target matches nothing; all problems at once.
        UnknownName: no installed plugin provides a method.
        AttachError: a piece cannot act where it is asked to.
    """
    with torch.device("meta"):
        return make_plan(
            model, methods, config, backbone, modules_to_save, save_frozen,
            device=torch.device("meta"),
        )  # fmt: skip


def make_plan(
    model: nn.Module,
    methods: MethodChoice | Sequence[MethodChoice],
    config: Mapping[str, Any],
    backbone: str | None,
    modules_to_save: Sequence[str],
    save_frozen: Sequence[str],
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    examples: Examples | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> Plan:
    """Make and check a whole plan; the model is only read."""
    chosen = make_methods(_choices(methods, config))
    knows = backbone_named(backbone) if backbone else backbone_of(model)
    found = survey(model, knows)
    _check_possible(chosen, knows)
    problems = [p for m in chosen.methods for p in _problems(found, m)]
    if problems:
        raise TargetError(problems)
    sites = found.sites
    if device is not None:
        sites = [replace(site, layer=site.layer.on(device)) for site in sites]
    prepare(chosen, model, sites, examples, state)
    placed = place(chosen, found, sites, dtype)
    selected = _once(
        _whole(found, modules_to_save, SAVED),
        _select(chosen, found),
        _whole(found, save_frozen, FROZEN),
    )
    for method in chosen.methods:
        labels = {p.label for p in placed} | {s.label for s in selected}
        if method.label not in labels:
            raise TargetError(
                f"{method.label} found nothing to do in this model, or nothing that the methods"
                " before it and modules_to_save had left."
            )
    return Plan(
        chosen.methods, knows, placed, selected, found.base, found.blocks_base,
        tuple(modules_to_save), tuple(save_frozen), found,
    )  # fmt: skip


def _choices(
    methods: MethodChoice | Sequence[MethodChoice], config: Mapping[str, Any]
) -> list[MethodChoice]:
    if isinstance(methods, str):
        return [{"method": methods, **config}]
    if config:
        raise ConfigError(
            f"{', '.join(config)}: keywords configure a single method given by name;"
            ' in a list write {"method": name, ...}.'
        )
    return [methods] if isinstance(methods, Mapping) else list(methods)


def _check_possible(methods: Methods, backbone: Backbone) -> None:
    for method in methods.methods:
        reason = installed().impossible(method.name, backbone.name)
        if reason:
            raise AttachError(f"{method.name} cannot run on {backbone.name}: {reason}.")


def _problems(found: Survey, method: Method) -> list[str]:
    targets = targets_of(method.config)
    problems = check_targets(found, method.label, targets)
    for name, values in per_role_fields(method.config).items():
        for pattern in values:
            fits = pattern == "default" or any(
                path_matches(s.path, (pattern[5:],))
                if pattern.startswith("path:")
                else role_matches(s.role, pattern)
                for s in found.sites
            )
            if not fits:
                problems.append(
                    f"{method.label}.{name}: {pattern!r} matches nothing in this model."
                    f"{nearest(pattern, found.roles())}"
                )
        for site in found.sites:
            if targets and any(site.matches(t) for t in targets.values()):
                try:
                    site.setting(values)
                except ConfigError as error:
                    problems.append(f"{method.label}.{name}: {error}")
                    break
    return problems


def _select(methods: Methods, found: Survey) -> list[Selected]:
    choosing = [m for m in methods.methods if hasattr(m, "peftcore_select_parameters")]
    if not choosing:
        return []
    parameters = found.parameters
    by_name = {info.name: info for info in parameters}
    selected: dict[str, Selected] = {}
    for method in choosing:
        caller = methods.caller(method, "peftcore_select_parameters")
        for names in caller(parameters=parameters):
            for name in names:
                if name not in by_name:
                    raise AttachError(
                        f"{method.name} selected {name!r}, which is no parameter of the model."
                        f"{nearest(name, by_name)}"
                    )
                selected.setdefault(name, Selected(by_name[name], method.label))
    return list(selected.values())


def _whole(found: Survey, patterns: Sequence[str], label: str) -> list[Selected]:
    out: dict[str, Selected] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        paths = {site.path for site in found.sites if role_matches(site.role, pattern)}
        glob = (pattern.removeprefix("path:"), f"**.{pattern}")
        paths |= {path for path in found.modules if path and path_matches(path, glob)}
        inside = [
            p for p in found.parameters
            if any(p.path == path or p.path.startswith(f"{path}.") for path in paths)
        ]  # fmt: skip
        if not inside:
            known = [path.rpartition(".")[2] for path in found.modules if path]
            raise TargetError(
                f"{label}: {pattern!r} is no role and no module of this model with parameters."
                f"{nearest(pattern, [*found.roles(), *known])}"
            )
        out.update({p.name: Selected(p, label, label == SAVED) for p in inside})
    return list(out.values())


def _once(*groups: Iterable[Selected]) -> list[Selected]:
    """Merge selections; a parameter belongs to the first group that has it."""
    merged: dict[str, Selected] = {}
    for item in (item for group in groups for item in group):
        if not item.info.parameter.is_floating_point():
            raise AttachError(
                f"{item.label}: {item.info.name} is quantised and cannot be trained itself."
            )
        merged.setdefault(item.info.name, item)
    return list(merged.values())


def _unique(pieces: Iterable[Piece]) -> list[nn.Parameter]:
    return list({id(p): p for piece in pieces for p in piece.parameters()}.values())
