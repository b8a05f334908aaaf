"""Base parameters that an adapter holds values of its own for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from peftcore.errors import AttachError, TargetError, nearest
from peftcore.method.method import Methods
from peftcore.model.globs import path_matches, role_matches
from peftcore.model.sites import ParameterInfo
from peftcore.model.survey import Survey
from peftcore.model.walk import running_of

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


def select_parameters(methods: Methods, found: Survey) -> list[Selected]:
    """Return the parameters that methods choose to train, each for the first that does.

    Raises:
        AttachError: what a method chose is no parameter of the model.
    """
    choosing = methods.each("peftcore_select_parameters")
    if not choosing:
        return []
    parameters = found.parameters
    by_name = {info.name: info for info in parameters}
    selected: dict[str, Selected] = {}
    for method, call in choosing:
        for name in call(parameters=parameters) or ():
            if name not in by_name:
                raise AttachError(
                    f"{method.name} selected {name!r}, which is no parameter of the model."
                    f"{nearest(name, by_name)}"
                )
            selected.setdefault(name, Selected(by_name[name], method.label))
    return list(selected.values())


def whole_modules(found: Survey, patterns: Sequence[str], label: str) -> list[Selected]:
    """Return all parameters of modules that are named by role, path or name.

    Raises:
        TargetError: a pattern names nothing that has parameters.
    """
    out: dict[str, Selected] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        paths = {site.path for site in found.sites if role_matches(site.role, pattern)}
        glob = (pattern.removeprefix("path:"), f"**.{pattern}")
        paths |= {path for path in found.modules if path and path_matches(path, glob)}
        inside = [
            p for p in found.parameters if _is_inside(found.tied.get(p.name, [p.name]), paths)
        ]
        if not inside:
            known = [path.rpartition(".")[2] for path in found.modules if path]
            raise TargetError(
                f"{label}: {pattern!r} is no role and no module of this model with parameters."
                f"{nearest(pattern, [*found.roles(), *known])}"
            )
        out.update({p.name: Selected(p, label, label == SAVED) for p in inside})
    return list(out.values())


def _is_inside(names: Iterable[str], paths: Iterable[str]) -> bool:
    """Tell whether a parameter, by one of its names, is in one of some modules.

    The model itself has its direct parameters only: the rest of it is what its other sites name.
    """
    owners = [name.rpartition(".")[0] for name in names]
    return any(o == p or (p and o.startswith(f"{p}.")) for o in owners for p in paths)


def once(*groups: Iterable[Selected]) -> list[Selected]:
    """Merge selections; a parameter belongs to the first group that has it."""
    merged: dict[str, Selected] = {}
    for item in (item for group in groups for item in group):
        if not item.info.parameter.is_floating_point():
            raise AttachError(
                f"{item.label}: {item.info.name} is quantised and cannot be trained itself."
            )
        merged.setdefault(item.info.name, item)
    return list(merged.values())


def check_at_hand(selected: Sequence[Selected], found: Survey) -> None:
    """Refuse to hold values in the place of parameters that each call replaces."""
    for item in selected:
        keeper = found.kept.get(item.info.path)
        if keeper is not None and item.info.parameter.is_meta:
            raise AttachError(
                f"{item.label}: {item.info.name} is offloaded by accelerate, whose hook would put"
                " the base's value in the place of the adapter's in each call. Keep this module on"
                f" {keeper.device} with a device_map, or leave it out."
            )
    for path in found.kept:
        gone = [leaf for leaf, buffer in running_of(found.modules[path]) if buffer.is_meta]
        if gone:
            raise AttachError(
                f"{path}.{gone[0]} is offloaded (offload_buffers): what training does"
                " to such statistics would be lost. Offload without offload_buffers."
            )
