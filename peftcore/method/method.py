"""The base class of every method, and how chosen methods become one plugin manager."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

from peftcore.errors import ConfigError, PluginError, TargetError, nearest
from peftcore.method.config import MethodConfig
from peftcore.method.hookspecs import Adapting
from peftcore.registry.installed import installed, resolve
from peftcore.schema import validated

if TYPE_CHECKING:
    from peftcore.model.sites import Site

MethodChoice = str | Mapping[str, Any]


class Method:
    """One chosen method with its configuration; implements hooks of :class:`Adapting`.

    Attributes:
        config: the validated configuration.
        name: name of the method, such as ``lora``.
        label: name within the adapter; differs from ``name`` where a method is chosen twice.
    """

    name: str = ""
    label: str = ""

    def __init__(self, config: MethodConfig):
        self.config: Any = config

    @property
    def examples(self) -> int:
        """Number of examples that the method looks at before it is attached."""
        return 0

    def check_linear(self, site: Site, does: str) -> None:
        """Refuse a targeted site that is no linear layer.

        Args:
            site: the site.
            does: what the method does with linear layers, as the beginning of a sentence.

        Raises:
            TargetError: it is none.
        """
        if site.layer.kind != "linear":
            raise TargetError(
                f"{self.label}.targets: {site.here} is of kind {site.layer.kind}; {does}. Name the"
                " layers inside it, or leave it out with exclude."
            )


class Methods:
    """The methods of one adapter, in the order of the recipe."""

    def __init__(self, methods: Sequence[Method]):
        self.methods = list(methods)
        self._manager = pluggy.PluginManager("peftcore")
        self._manager.add_hookspecs(Adapting)
        # pluggy calls the last registered first; the recipe's first shall be first
        for method in reversed(self.methods):
            _check_hooks(method)
            try:
                self._manager.register(method, name=method.label)
            except pluggy.PluginValidationError as error:
                raise PluginError(f"method {method.name}: {error}") from error

    def caller(self, method: Method, hook: str) -> Any:
        """Return a caller of one hook that reaches only one method."""
        others = [m for m in self.methods if m is not method]
        return self._manager.subset_hook_caller(hook, others)


def _check_hooks(method: Method) -> None:
    known = [name for name in vars(Adapting) if name.startswith("peftcore_")]
    for name in dir(type(method)):
        if not name.startswith("peftcore_"):
            continue
        if name not in known:
            raise PluginError(
                f"method {method.name}: {name} is not a hook of methods.{nearest(name, known)}"
            )
        if not hasattr(getattr(method, name), "peftcore_impl"):
            raise PluginError(f"method {method.name}: {name} lacks @hookimpl.")


def make_methods(choices: Sequence[MethodChoice]) -> Methods:
    """Make method instances from names and mappings ``{"method": name, **config}``.

    Raises:
        UnknownName: no installed plugin provides a method.
        ConfigError: configurations are wrong; all problems at once.
    """
    problems: list[str] = []
    made: list[Method] = []
    for i, choice in enumerate(choices):
        where = f"methods[{i}]"
        data = {"method": choice} if isinstance(choice, str) else dict(choice)
        name = data.pop("method", None)
        if not isinstance(name, str):
            problems.append(
                f"{where} has no 'method': name one, such as {{method: lora, rank: 8}}."
            )
            continue
        spec = installed().find("methods", name)
        try:
            config = validated(resolve(spec.config), data, where=where, label=name)
        except ConfigError as error:
            problems += error.problems
            continue
        kind = resolve(spec.method)
        if not (isinstance(kind, type) and issubclass(kind, Method)):
            raise PluginError(f"method {name}: {spec.method} is not a subclass of peftcore.Method.")
        method = kind(config)
        same = sum(m.name == name for m in made)
        method.name, method.label = name, f"{name}-{same + 1}" if same else name
        made.append(method)
    if problems:
        raise ConfigError(problems)
    return Methods(made)
