"""What became of each plugin."""

from collections.abc import Iterable
from typing import Any

from peftcore.errors import PluginError
from peftcore.registry.checking import KINDS
from peftcore.registry.hookspecs import hookimpl

#: What stands for the distribution of a plugin that is not installed.
HERE = "this-process"


class PluginRecord:
    """One entry point and what became of it.

    Attributes:
        name: name of the entry point.
        distribution: name of the distribution that brings it.
        version: version of that distribution.
        status: ``ok``, ``disabled``, ``incompatible``, ``broken`` or ``conflict``.
        problem: one sentence, where the status is not ``ok``.
        trace: traceback, where importing or calling the plugin raised.
        provides: names by kind (``methods``, ``backbones``, ...).
    """

    def __init__(
        self, name: str, distribution: str, version: str, status: str = "ok", problem: str = ""
    ):
        self.name = name
        self.distribution = distribution
        self.version = version
        self.status = status
        self.problem = problem
        self.trace = ""
        self.provides: dict[str, list[str]] = {}

    @property
    def shown(self) -> str:
        """The distribution as tables show it; of a plugin of this process its module."""
        return f"{self.name} ({HERE})" if self.distribution == HERE else self.distribution

    @property
    def named(self) -> str:
        """The distribution with its version; of a plugin of this process its module."""
        return self.shown if self.distribution == HERE else f"{self.distribution} {self.version}"

    def why_not(self) -> str:
        """Say why the plugin cannot be used."""
        status = "in conflict" if self.status == "conflict" else self.status
        problem = self.problem.partition("\n")[0].removesuffix(".")
        return f"{self.named} is {status}: {problem} (see peftcore doctor)."

    @property
    def key(self) -> str:
        """What tells the record from all others."""
        return f"{self.distribution}:{self.name}"


class SpecsAlone:
    """Specs alone, as the plugin object that would return them."""

    def __init__(self, specs: Iterable[Any]):
        for kind, cls in KINDS.items():
            here = [spec for spec in specs if isinstance(spec, cls)]
            if here:
                setattr(self, f"peftcore_register_{kind}", hookimpl(lambda found=here: found))


def mark_broken(record: PluginRecord, error: BaseException) -> None:
    """Say in a record what an import or a hook of its plugin raised."""
    import traceback

    record.status = "broken"
    if isinstance(error, PluginError):
        record.problem = str(error)
    else:
        record.problem = traceback.format_exception_only(error)[-1].strip()
    record.trace = "".join(traceback.format_exception(error))
