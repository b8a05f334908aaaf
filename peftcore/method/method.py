"""The base class of every method, and how chosen methods become one plugin manager."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

import pluggy

from peftcore.errors import ConfigError, PluginError, nearest
from peftcore.method.config import MethodConfig
from peftcore.method.hookspecs import Adapting
from peftcore.registry.hookspecs import OPTIONS
from peftcore.registry.installed import installed
from peftcore.schema import validated

T = TypeVar("T")
MethodChoice = str | Mapping[str, Any]


class Method:
    """One chosen method with its configuration; implements hooks of :class:`Adapting`.

    What a method keeps on itself between hooks, such as what it found in ``peftcore_prepare``,
    lives as long as the adapter.

    Attributes:
        config: the validated configuration.
        name: name of the method, such as ``lora``.
        label: name within the adapter; differs from ``name`` where a method is chosen twice.
    """

    name: str = ""
    label: str = ""
    #: The method can be chosen together with others.
    composes: ClassVar[bool] = True

    def __init__(self, config: MethodConfig):
        self.config: Any = config
        self._shared: dict[Hashable, Any] = {}

    @property
    def reads_prompt(self) -> bool:
        """Whether its pieces count tokens of a prompt, which a stack that writes has not."""
        return False

    @property
    def examples(self) -> int:
        """Number of examples that the method looks at before it is attached."""
        return 0

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what several pieces of this adapter share, made when it is first asked for.

        A parameter, or a module that holds parameters and buffers: each piece that uses it takes it
        as an attribute. It is counted once, stored once, under the first of these pieces, and moves
        with the model.

        Args:
            key: what tells it from other shared things of this method, such as a size.
            make: makes it; its parameters may be set to their start here.
        """
        if key not in self._shared:
            self._shared[key] = make()
        found: T = self._shared[key]
        return found


class Methods(Sequence[Method]):
    """The methods of one adapter, in the order of the recipe; asked about their hooks once."""

    def __init__(self, methods: Sequence[Method]):
        self._methods = list(methods)
        self._callers = _callers(self._methods)

    def each(self, hook: str) -> list[tuple[Method, Callable[..., Any]]]:
        """Return the methods that implement a hook, each with what calls it there.

        It is called with all arguments of the hook, by name.
        """
        return self._callers.get(hook, [])

    def of(self, label: str, hook: str) -> Callable[..., Any] | None:
        """Return what calls a hook of one method, or None where it does not implement it."""
        return next((call for m, call in self.each(hook) if m.label == label), None)

    def __getitem__(self, index: Any) -> Any:
        return self._methods[index]

    def __len__(self) -> int:
        return len(self._methods)

    def __iter__(self) -> Iterator[Method]:
        return iter(self._methods)

    def __reduce__(self) -> Any:
        return Methods, (self._methods,)


def _callers(methods: Sequence[Method]) -> dict[str, list[tuple[Method, Callable[..., Any]]]]:
    found: dict[str, list[tuple[Method, Callable[..., Any]]]] = {}
    for method in methods:
        for hook, names in _hooks_of(type(method), method.name):
            call = partial(_call, getattr(method, hook), names)
            found.setdefault(hook, []).append((method, call))
    return found


_hooks: dict[tuple[type[Method], str], list[tuple[str, tuple[str, ...]]]] = {}


def _hooks_of(kind: type[Method], name: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return the hooks of a class of methods with their arguments, checked by pluggy once."""
    if (kind, name) in _hooks:
        return _hooks[kind, name]
    _check_hooks(kind, installed().whose("methods", name))
    manager = pluggy.PluginManager("peftcore")
    manager.add_hookspecs(Adapting)
    plugin = kind.__new__(kind)
    manager.register(plugin, name=name)
    callers = manager.get_hookcallers(plugin) or []
    found = [(c.name, tuple(c.get_hookimpls()[0].argnames)) for c in callers]
    return _hooks.setdefault((kind, name), found)


def _call(function: Callable[..., Any], names: Sequence[str], /, **given: Any) -> Any:
    return function(*[given[name] for name in names])


def _check_hooks(kind: type[Method], whose: str) -> None:
    known = [name for name in vars(Adapting) if name.startswith("peftcore_")]
    for name in dir(kind):
        if not name.startswith("peftcore_"):
            continue
        if name not in known:
            raise PluginError(f"{whose}: {name} is not a hook of methods.{nearest(name, known)}")
        options = getattr(getattr(kind, name), "peftcore_impl", None)
        if options is None:
            raise PluginError(f"{whose}: {name} lacks @hookimpl.")
        allowed = _arguments(getattr(Adapting, name))
        for given in _arguments(getattr(kind, name)):
            if given not in allowed:
                raise PluginError(
                    f"{whose}: {name} is given no {given!r}.{nearest(given, allowed)} It may take:"
                    f" {', '.join(allowed)}."
                )
        for option in OPTIONS:
            if options.get(option):
                raise PluginError(
                    f"{whose}: {name} is marked with {option}, which hooks of methods do not have:"
                    " methods are called in the order of the recipe. Write @hookimpl alone."
                )


def _arguments(function: Callable[..., Any]) -> list[str]:
    """Return the names of the arguments of a method of a class, without its first."""
    return list(inspect.signature(function).parameters)[1:]


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
            fields = installed().resolve("methods", name, "config")
            config = validated(fields, data, where=where, label=name)
        except ConfigError as error:
            problems += error.problems
            continue
        kind = installed().resolve("methods", name, "method")
        if not (isinstance(kind, type) and issubclass(kind, Method)):
            whose = installed().whose("methods", name)
            raise PluginError(f"{whose}: {spec.method} is not a subclass of peftcore.Method.")
        method = kind(config)
        same = sum(m.name == name for m in made)
        method.name, method.label = name, f"{name}-{same + 1}" if same else name
        made.append(method)
    alone = next((m for m in made if not m.composes), None)
    if alone is not None and len(made) > 1:
        problems.append(f"methods: {alone.name} goes with no other method; choose it alone.")
    if problems:
        raise ConfigError(problems)
    return Methods(made)
