"""The method: which parameters of the base train."""

from collections.abc import Sequence

from peftcore import Method, ParameterInfo, Site, TargetError, Targets, hookimpl
from peftcore_freeze.config import FreezeConfig

#: Roles that are never trained here: heads train through modules_to_save.
_LEFT = ("head", "unused")


class Freeze(Method):
    """Layer freezing: the parameters of chosen modules train, and of all that is inside them."""

    config: FreezeConfig

    @hookimpl
    def peftcore_prepare(self, sites: Sequence[Site]) -> None:
        """Find the chosen modules.

        A block or an attention module has few parameters of its own: those inside it are meant.
        """
        given = {"targets": self.config.targets, "also": self.config.also}
        self._parts = [
            _Part(f"{self.label}.{field}", targets, sites)
            for field, targets in given.items()
            if targets is not None
        ]
        self._left = [site.path for site in sites if site.role in _LEFT]

    @hookimpl
    def peftcore_select_parameters(self, parameters: Sequence[ParameterInfo]) -> list[str]:
        """Return the names of the chosen parameters.

        Raises:
            TargetError: a choice has nothing to train, or is a slice of a fused parameter.
        """
        open_ = [p for p in parameters if not _inside(p.path, self._left)]
        chosen = {info.name for part in self._parts for info in part.choose(open_)}
        return [info.name for info in parameters if info.name in chosen]


class _Part:
    """One field of targets, and the modules that it chooses or excludes."""

    def __init__(self, field: str, targets: Targets, sites: Sequence[Site]):
        self.field = field
        self.targets = targets
        chosen = [site for site in sites if site.matches(targets)]
        self.paths = [site.path for site in chosen if site.features is None]
        self.slices = {site.path: site.role for site in chosen if site.features is not None}
        left_out = Targets(roles=targets.exclude) if targets.exclude else None
        self.out = [site.path for site in sites if left_out and site.matches(left_out)]

    def choose(self, parameters: Sequence[ParameterInfo]) -> list[ParameterInfo]:
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
                    f"{self.field}: {role} at {path} is a slice of one fused parameter, which"
                    " trains whole or not at all. Write attention.qkv."
                )
        if not chosen:
            raise TargetError(
                f"{self.field}: {', '.join(self.targets.roles)} has nothing to train in this"
                " model; heads train through modules_to_save."
            )
        return chosen


def _inside(path: str, modules: Sequence[str]) -> bool:
    return any(path == module or path.startswith(f"{module}.") or not module for module in modules)
