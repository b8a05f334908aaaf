"""The method: which parameters of the base train."""

from collections.abc import Sequence

from peftcore import Method, MethodConfig, ParameterInfo, Site, TargetError, Targets, hookimpl
from peftcore_freeze.config import FreezeConfig

#: Roles that are never trained here: heads train through modules_to_save.
_LEFT = ("head", "unused")


class Freeze(Method):
    """Layer freezing: the parameters of chosen modules train, and of all that is inside them."""

    config: FreezeConfig

    def __init__(self, config: MethodConfig):
        super().__init__(config)
        given = {"targets": self.config.targets, "also": self.config.also}
        self._parts = [_Part(f, t) for f, t in given.items() if t is not None]
        self._left: list[str] = []

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> None:
        """Put nothing there; remember which modules are chosen, all sites come before parameters.

        A block or an attention module has few parameters of its own: those inside it are meant.
        """
        if site.role in _LEFT:
            self._left.append(site.path)
        for part in self._parts:
            part.see(site)

    @hookimpl
    def peftcore_select_parameters(self, parameters: Sequence[ParameterInfo]) -> list[str]:
        """Return the names of the chosen parameters.

        Raises:
            TargetError: a choice has nothing to train, or is a slice of a fused parameter.
        """
        open_ = [p for p in parameters if not _inside(p.path, self._left)]
        chosen = {info.name for part in self._parts for info in part.choose(open_, self.label)}
        return [info.name for info in parameters if info.name in chosen]


class _Part:
    """One field of targets, and the modules that it chooses or excludes."""

    def __init__(self, field: str, targets: Targets):
        self.field = field
        self.targets = targets
        self.excluded = Targets(roles=targets.exclude) if targets.exclude else None
        self.paths: list[str] = []
        self.out: list[str] = []
        self.slices: dict[str, str] = {}

    def see(self, site: Site) -> None:
        """Remember a site as chosen or excluded."""
        if self.excluded is not None and site.matches(self.excluded):
            self.out.append(site.path)
        if site.matches(self.targets):
            if site.features is None:
                self.paths.append(site.path)
            else:
                self.slices[site.path] = site.role

    def choose(self, parameters: Sequence[ParameterInfo], label: str) -> list[ParameterInfo]:
        """Return the parameters that the targets choose."""
        chosen = [
            info for info in parameters
            if (_inside(info.path, self.paths) or info.matches(self.targets))
            and not _inside(info.path, self.out)
        ]  # fmt: skip
        whole = {info.path for info in chosen}
        for path, role in self.slices.items():
            if path not in whole:
                raise TargetError(
                    f"{label}.{self.field}: {role} at {path} is a slice of one fused parameter,"
                    " which trains whole or not at all. Write attention.qkv."
                )
        if not chosen:
            raise TargetError(
                f"{label}.{self.field}: {', '.join(self.targets.roles)} has nothing to train in"
                " this model; heads train through modules_to_save."
            )
        return chosen


def _inside(path: str, modules: Sequence[str]) -> bool:
    return any(path == module or path.startswith(f"{module}.") or not module for module in modules)
