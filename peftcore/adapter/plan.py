"""What attaching would do: selected parameters and pieces per site, made before any change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from peftcore.adapter.offer import offer, prepare
from peftcore.adapter.selecting import (
    FROZEN,
    SAVED,
    Selected,
    check_at_hand,
    once,
    select_parameters,
    whole_modules,
)
from peftcore.errors import AttachError, ConfigError, TargetError, nearest
from peftcore.method.examples import Examples
from peftcore.method.method import Method, MethodChoice, Methods, make_methods
from peftcore.method.pieces import Piece
from peftcore.method.placed import Placed
from peftcore.model.backbones import Backbone, backbone_named, backbone_of
from peftcore.model.features import missing, prompt_stack
from peftcore.model.globs import path_matches, role_matches
from peftcore.model.matching import check_targets
from peftcore.model.survey import Survey, survey
from peftcore.model.targets import Targets, per_role_fields, targets_of
from peftcore.registry.installed import installed


class Line(NamedTuple):
    """One line of a plan's table.

    Attributes:
        method: label of the method, or ``modules_to_save`` or ``save_frozen``.
        role: role of the sites or parameters.
        sites: their number.
        trainable: number of trainable parameters.
    """

    method: str
    role: str
    sites: int
    trainable: int


@dataclass
class Plan:
    """What an adapter would put on a model; print it before anything is touched.

    Attributes:
        methods: the chosen methods, in order.
        placed: the pieces, in model order.
        selected: base parameters with a value of their own.
        modules_to_save, save_frozen: as they were given.
        survey: what the walk over the model found.
    """

    methods: Methods
    placed: list[Placed]
    selected: list[Selected]
    survey: Survey = field(repr=False)
    modules_to_save: tuple[str, ...] = ()
    save_frozen: tuple[str, ...] = ()

    @property
    def backbone(self) -> Backbone:
        """What knows the model."""
        return self.survey.backbone

    @property
    def base(self) -> int:
        """Number of parameters of the bare model."""
        return self.survey.base

    @property
    def blocks_base(self) -> int:
        """Number of parameters inside its blocks."""
        return self.survey.blocks_base

    @property
    def head(self) -> int:
        """Number of trainable parameters of ``modules_to_save``, counted apart."""
        return sum(s.info.parameter.numel() for s in self.selected if s.label == SAVED)

    @property
    def trainable(self) -> int:
        """Number of trainable parameters of the methods, without ``modules_to_save``."""
        return sum(line.trainable for line in self.lines if line.method not in (SAVED, FROZEN))

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
    def lines(self) -> list[Line]:
        """The table of methods and roles."""
        table: dict[tuple[str, str], list[int]] = {}
        seen: set[int] = set()
        for item in self.placed:
            new = [p for p in item.piece.parameters() if p.requires_grad and id(p) not in seen]
            seen.update(map(id, new))
            line = table.setdefault((item.label, item.site.role), [0, 0])
            line[0] += 1
            line[1] += sum(p.numel() for p in new)
        for chosen in self.selected:
            line = table.setdefault((chosen.label, chosen.info.role or "other"), [0, 0])
            line[0] += 1
            line[1] += chosen.info.parameter.numel() if chosen.trained else 0
        return [Line(label, role, *counts) for (label, role), counts in table.items()]

    @property
    def notes(self) -> list[str]:
        """What a reader should know besides the table."""
        found = []
        for chosen in self.selected:
            names = self.survey.tied.get(chosen.info.name)
            if names and chosen.trained:
                found.append(f"{' and '.join(names)} are one tied parameter, which trains as both.")
        if sentence := self._passed_over():
            found.append(sentence)
        if sentence := self.survey.out_of_reach():
            found.append(sentence)
        return found

    def _passed_over(self) -> str:
        """Say how much all-linear leaves out where there are experts."""
        globs = {r for m in self.methods for t in targets_of(m.config).values() for r in t.roles}
        share = self.survey.share_of_experts
        kinds = {i.site.kind for i in self.placed} | {s.info.kind for s in self.selected}
        if not share or "all-linear" not in globs or "experts" in kinds:
            return ""
        return (
            f"all-linear leaves out the experts, {100 * share:.0f} % of the parameters; methods"
            " that know them, such as lora, take mlp.experts.* as a target."
        )

    def __str__(self) -> str:
        return self.table()

    def table(self, convention: str = "of_total") -> str:
        """Return a table of methods and roles, with the trainable share in one convention."""
        lines = [f"{'method':<18}{'role':<26}{'sites':>7}{'trainable':>15}"]
        lines += [f"{m:<18}{role:<26}{n:>7}{k:>15,}" for m, role, n, k in self.lines]
        lines.append(
            f"trainable {self.trainable:,} of {self.base:,}"
            f" = {self.percent(convention):.4f} % {convention}"
            + (f"; head {self.head:,} besides" if self.head else "")
        )
        lines.append(self.survey.coverage())
        lines += [f"note: {note}" for note in self.notes]
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
    tokenizer: Any = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> Plan:
    """Make and check a whole plan; the model is only read."""
    chosen = make_methods(_choices(methods, config))
    found = survey(model, backbone_named(backbone) if backbone else backbone_of(model))
    _check_possible(chosen, found)
    for method in chosen:
        method.config = _settled(method, found)
    problems = [p for m in chosen for p in _problems(found, m)]
    if problems:
        raise TargetError(problems)
    sites = found.sites
    if device is not None:
        sites = [replace(site, layer=site.layer.on(device)) for site in sites]
    on_meta = any(site.layer.device.type == "meta" for site in sites)
    prepare(chosen, model, found, sites, examples, tensors, tokenizer, planned=on_meta)
    placed = offer(chosen, found, sites, dtype, fresh=tensors is None and not on_meta)
    selected = once(
        whole_modules(found, modules_to_save, SAVED),
        select_parameters(chosen, found),
        whole_modules(found, save_frozen, FROZEN),
    )
    check_at_hand(selected, found)
    labels = {p.label for p in placed} | {s.label for s in selected}
    for method in chosen:
        if method.label not in labels:
            raise TargetError(
                f"{method.label} found nothing to do in this model, or nothing that the methods"
                " before it and modules_to_save had left."
            )
    return Plan(chosen, placed, selected, found, tuple(modules_to_save), tuple(save_frozen))


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


def _check_possible(methods: Methods, found: Survey) -> None:
    for method in methods:
        reason = missing(found, installed().methods[method.name].needs)
        if reason:
            raise AttachError(f"{method.name} cannot run on {found.backbone.name}: {reason}.")


#: Features of a family without which a method that acts on a sequence cannot run.
_OF_A_SEQUENCE = {"tokens", "cache", "one-pass"}


def _settled(method: Method, found: Survey) -> Any:
    """Return a method's configuration with targets as this family settles what they leave open.

    Defaults name roles that it has. Where layers are counted, or the method acts on a sequence, the
    stack is its main one; where it counts tokens of a prompt, the one that reads. What the user
    wrote stays, so that an error can say what is wrong.
    """
    stands_in, main = found.backbone.stands_in, found.backbone.main_stack
    reads = prompt_stack(found) if method.reads_prompt else ""
    if not (stands_in or main or reads):
        return method.config
    known = found.roles()
    changed: dict[str, Targets] = {}
    in_sequence = _OF_A_SEQUENCE.intersection(installed().methods[method.name].needs)
    for field_, targets in targets_of(method.config).items():
        counts = in_sequence or targets.layers != "all"
        by_path = any(role.startswith("path:") for role in targets.roles)
        crosses = any(role.startswith("cross_attention") for role in targets.roles)
        stack = (main if counts else "") or ("" if crosses else reads)
        if stack and targets.stack is None and not by_path:
            targets = targets.model_copy(update={"stack": stack})
            changed[field_] = targets
        lacking = [r for r in targets.roles if r not in known and r in stands_in]
        if lacking and field_ not in method.config.model_fields_set:
            roles = tuple(
                dict.fromkeys(stands_in.get(r, r) if r in lacking else r for r in targets.roles)
            )
            changed[field_] = targets.model_copy(update={"roles": roles})
    return method.config.model_copy(update=changed) if changed else method.config


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


def _unique(pieces: Iterable[Piece]) -> list[nn.Parameter]:
    return list({id(p): p for piece in pieces for p in piece.parameters()}.values())
