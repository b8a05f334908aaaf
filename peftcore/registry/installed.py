"""Discovery of plugins through entry points. Imports neither torch nor pydantic."""

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from functools import lru_cache
from importlib.metadata import EntryPoint
from types import MappingProxyType
from typing import Any, cast

import pluggy

from peftcore.errors import ConfigError, PluginError, UnknownName, nearest
from peftcore.registry.discovery import distributions, unmet
from peftcore.registry.hookspecs import GROUP, Discovery
from peftcore.registry.specs import (
    FEATURES,
    BackboneSpec,
    CommandSpec,
    LayerSpec,
    MethodSpec,
    SourceSpec,
    Spec,
    TaskSpec,
)

_KINDS: dict[str, type] = {
    "methods": MethodSpec,
    "backbones": BackboneSpec,
    "tasks": TaskSpec,
    "sources": SourceSpec,
    "layers": LayerSpec,
    "commands": CommandSpec,
}
_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_NAME = re.compile(r"[a-z0-9][a-z0-9_./-]*")
#: Fields of specs that hold a reference.
REFERENCE_FIELDS = ("config", "method", "backbone", "task", "resolve", "layer", "command", "plans")
#: Names that no plugin can take, because they are the core's.
CORE = {
    "backbones": ("structural",),
    "commands": ("doctor", "inspect", "list", "merge", "new", "plan", "show"),
}
#: Environment variable that switches plugins off.
DISABLE = "PEFTCORE_DISABLE_PLUGINS"


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


class Registry:
    """Everything that the installed plugins provide.

    Attributes:
        records: one record for each entry point, by name.
        methods, backbones, tasks, sources, layers, commands: specs by name.
    """

    def __init__(self) -> None:
        self.records: list[PluginRecord] = []
        self._specs: dict[str, dict[str, Any]] = {kind: {} for kind in _KINDS}
        self._owners: dict[tuple[str, str], PluginRecord] = {}
        self._manager = pluggy.PluginManager("peftcore")
        self._manager.add_hookspecs(Discovery)

    @property
    def methods(self) -> Mapping[str, MethodSpec]:
        """Method specs by name."""
        return MappingProxyType(self._specs["methods"])

    @property
    def backbones(self) -> Mapping[str, BackboneSpec]:
        """Backbone specs by name."""
        return MappingProxyType(self._specs["backbones"])

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        """Task specs by name."""
        return MappingProxyType(self._specs["tasks"])

    @property
    def sources(self) -> Mapping[str, SourceSpec]:
        """Source specs by name."""
        return MappingProxyType(self._specs["sources"])

    @property
    def layers(self) -> Mapping[str, LayerSpec]:
        """Layer specs by the type they handle."""
        return MappingProxyType(self._specs["layers"])

    @property
    def commands(self) -> Mapping[str, CommandSpec]:
        """Command specs by name."""
        return MappingProxyType(self._specs["commands"])

    def owner(self, kind: str, name: str) -> PluginRecord:
        """Return the record of the plugin that provides a name."""
        return self._owners[kind, name]

    def impossible(self, method: str, backbone: str) -> str:
        """Return why a method cannot run on a backbone, or an empty string."""
        spec = self.methods[method]
        reason = spec.impossible.get(backbone, spec.impossible.get("*", ""))
        if reason or backbone not in self.backbones:
            return reason
        missing = [FEATURES[n] for n in spec.needs if n not in self.backbones[backbone].has]
        return f"it needs {' and '.join(missing)}, which {backbone} does not have" * bool(missing)

    def find(self, kind: str, name: str) -> Any:
        """Return the spec of a name.

        Raises:
            UnknownName: no installed plugin provides it; the sentence lists what there is.
        """
        specs = self._specs[kind]
        if name in specs:
            return specs[name]
        singular = kind.removesuffix("s")
        have = f" Installed: {', '.join(sorted(specs))}." if specs else f" No {singular} installed."
        broken = [r.name for r in self.records if r.status not in ("ok", "disabled")]
        hint = f" Not usable: {', '.join(broken)} (see peftcore doctor)." if broken else ""
        package = f"peftcore-{name.split('/')[0]}"
        raise UnknownName(
            f"unknown {singular} {name!r}.{nearest(name, specs)}{have}{hint}"
            f" If a plugin brings it, install that plugin, such as: pip install {package}"
        )

    def load(self, record: PluginRecord, point: EntryPoint) -> None:
        """Import what an entry point names and register it under a record."""
        try:
            plugin = point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.records.append(record)
            _mark_broken(record, error)
            return
        self.add(record, plugin)

    def add(self, record: PluginRecord, plugin: object) -> None:
        """Register a plugin object under a record; its status says how that went."""
        self.records.append(record)
        try:
            found = self._collect(record, plugin)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            _mark_broken(record, error)
            self._manager.unregister(name=f"{record.distribution}:{record.name}")
            return
        for kind, specs in found.items():
            for name in specs:
                if other := self._taken(kind, name):
                    record.status = "conflict"
                    record.problem = f"{kind[:-1]} {name!r} is already provided by {other}"
                    return
        sizes = {size: name for name, s in self.backbones.items() for size in s.configs}
        for spec in found.get("backbones", {}).values():
            for size in spec.configs if isinstance(spec, BackboneSpec) else ():
                if size in sizes:
                    record.status = "conflict"
                    record.problem = f"size {size!r} is already one of {sizes[size]}"
                    return
        for kind, specs in found.items():
            record.provides[kind] = sorted(specs)
            self._specs[kind].update(specs)
            self._owners.update({(kind, name): record for name in specs})

    def _taken(self, kind: str, name: str) -> str:
        if name in CORE.get(kind, ()):
            return "peftcore"
        owner = self._owners.get((kind, name))
        return owner.distribution if owner else ""

    def _collect(self, record: PluginRecord, plugin: object) -> dict[str, dict[str, Spec]]:
        implemented = _check_hooks(plugin)
        self._manager.register(plugin, name=f"{record.distribution}:{record.name}")
        others = [p for p in self._manager.get_plugins() if p is not plugin]
        found: dict[str, dict[str, Spec]] = {}
        for hook in implemented:
            kind = hook.removeprefix("peftcore_register_")
            results = self._manager.subset_hook_caller(hook, others)()
            if not results:
                raise PluginError(f"{hook} returned None; return a {_KINDS[kind].__name__}")
            # a spec is a tuple itself
            one = isinstance(results[0], (str, *_KINDS.values()))
            one = one or not isinstance(results[0], Iterable)
            for spec in results if one else results[0]:
                name = _checked(kind, spec)
                if name in found.setdefault(kind, {}):
                    raise PluginError(f"{kind[:-1]} {name!r} is registered twice")
                found[kind][name] = spec
        return found


def _check_hooks(plugin: object) -> list[str]:
    """Return the hooks that a plugin implements."""
    known = [name for name in vars(Discovery) if name.startswith("peftcore_")]
    implemented = []
    for name in dir(plugin):
        if not name.startswith("peftcore_"):
            continue
        marked = hasattr(getattr(plugin, name), "peftcore_impl")
        if name in known:
            if not marked:
                raise PluginError(f"{name} lacks @hookimpl")
            implemented.append(name)
        elif marked or name.startswith("peftcore_register"):
            raise PluginError(f"{name} is not a discovery hook of {GROUP}.{nearest(name, known)}")
    if not implemented:
        raise PluginError(f"it has no peftcore_register_... hook; known: {', '.join(known)}")
    return implemented


def _checked(kind: str, spec: Any) -> str:
    """Check the types of a spec's fields, which a tuple does not, and return its name."""
    expected = _KINDS[kind]
    if not isinstance(spec, expected):
        raise PluginError(f"peftcore_register_{kind} returned {spec!r}, not a {expected.__name__}")
    for name, kept in expected.__annotations__.items():
        value = getattr(spec, name)
        wrong = f"{name}={value!r} of {expected.__name__} is not "
        if name in REFERENCE_FIELDS:
            absent = value == "" and name in expected._field_defaults
            if not absent and (not isinstance(value, str) or not _REFERENCE.fullmatch(value)):
                raise PluginError(f"{wrong}'package.module:Name'")
        elif kept == tuple[str, ...]:
            # a forgotten comma makes a string, whose characters would all be globs
            if not isinstance(value, tuple) or not all(isinstance(v, str) for v in value):
                raise PluginError(f"{wrong}a tuple of strings")
        elif kept in (str, bool) and not isinstance(value, kept):
            raise PluginError(f"{wrong}a {kept.__name__}")
        elif getattr(kept, "__origin__", None) is Mapping and not isinstance(value, Mapping):
            raise PluginError(f"{wrong}a mapping")
    return _name_of(cast(Spec, spec))


def _name_of(spec: Spec) -> str:
    for key in (*getattr(spec, "needs", ()), *getattr(spec, "has", ())):
        if key not in FEATURES:
            raise PluginError(f"{key!r} is no feature of a backbone: {', '.join(FEATURES)}")
    if isinstance(spec, LayerSpec):
        if not _REFERENCE.fullmatch(spec.type):
            raise PluginError(f"type={spec.type!r} of LayerSpec is not 'package.module:Class'")
        return spec.type
    if isinstance(spec, SourceSpec) and spec.kind not in ("model", "data"):
        raise PluginError(f"kind={spec.kind!r} of SourceSpec is neither 'model' nor 'data'")
    if not _NAME.fullmatch(spec.name):
        raise PluginError(f"{spec.name!r} is not a name: lower-case letters, digits, - _ . /")
    return spec.name


def _mark_broken(record: PluginRecord, error: BaseException) -> None:
    import traceback

    record.status = "broken"
    if isinstance(error, PluginError):
        record.problem = str(error)
    else:
        record.problem = traceback.format_exception_only(error)[-1].strip()
    record.trace = "".join(traceback.format_exception(error))


@lru_cache(maxsize=1)
def installed() -> Registry:
    """Return the registry of this process, discovered on first use."""
    from peftcore.version import __version__

    found = Registry()
    disabled = disabled_plugins()
    # what a plugin prints while it is imported must not stand among results
    with redirect_stdout(sys.stderr):
        for one in distributions():
            if one.problem:
                record = PluginRecord("?", one.name, one.version, "broken", one.problem)
                found.records.append(record)
            for point in sorted(one.points, key=lambda p: p.name):
                record = PluginRecord(point.name, one.name, one.version)
                if disabled & {record.name, record.distribution, "all"}:
                    record.status, record.problem = "disabled", f"named in {DISABLE}"
                elif point.group != GROUP:
                    record.status = "incompatible"
                    record.problem = f"made for the hooks {point.group}, this peftcore has {GROUP}"
                elif problem := unmet(one, __version__):
                    record.status, record.problem = "incompatible", problem
                if record.status == "ok":
                    found.load(record, point)
                else:
                    found.records.append(record)
    return found


def disabled_plugins() -> set[str]:
    """Return what the environment variable names: entry points, distributions or ``all``."""
    return {name.strip() for name in os.environ.get(DISABLE, "").split(",")} - {""}


def resolve(reference: str) -> Any:
    """Import what a reference names.

    Raises:
        PluginError: the module or the name cannot be imported.
    """
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PluginError(
            f"{reference} cannot be imported: {type(error).__name__}: {error}."
            " peftcore doctor shows the traceback."
        ) from error


def resolve_source(name: str, kind: str) -> Any:
    """Return the local path of a named source, or None when the name is not a source's.

    Args:
        name: ``samples/minilm``, or anything else, such as a path.
        kind: ``"model"`` or ``"data"``.
    """
    spec = installed().sources.get(name)
    if spec is None:
        prefixes = {known.split("/")[0] for known in installed().sources if "/" in known}
        if name.split("/")[0] in prefixes | {"samples"} and "/" in name:
            from pathlib import Path

            if not Path(name).exists():
                installed().find("sources", name)
        return None
    if spec.kind != kind:
        raise ConfigError(f"source {name!r} is {spec.kind}, not {kind}.")
    function: Callable[[], Any] = resolve(spec.resolve)
    return function()
