"""What is installed: every plugin and all that it provides. Imports neither torch nor pydantic."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import lru_cache
from importlib.metadata import EntryPoint
from types import MappingProxyType
from typing import Any

import pluggy

from peftcore.errors import PluginError, UnknownName, nearest
from peftcore.registry.checking import KINDS, checked, implemented_hooks
from peftcore.registry.choices import (
    DISABLE,
    IN_PROCESS,
    PREFER,
    disabled_plugins,
    homes,
    named_in,
    preferred_plugins,
)
from peftcore.registry.discovery import distributions, unmet
from peftcore.registry.hookspecs import GROUP, Discovery
from peftcore.registry.records import HERE, PluginRecord, SpecsAlone, mark_broken
from peftcore.registry.references import resolve
from peftcore.registry.specs import (
    FEATURES,
    BackboneSpec,
    CommandSpec,
    ExecutorSpec,
    FeatureSpec,
    FormatSpec,
    LayerSpec,
    MethodSpec,
    SourceSpec,
    Spec,
    TaskSpec,
)

#: Names that no plugin can take, because they are the core's.
CORE = {
    "backbones": ("structural",),
    "commands": ("doctor", "inspect", "list", "merge", "new", "plan", "show", "test"),
}


class Registry:
    """Everything that the installed plugins provide.

    Attributes:
        records: one record for each entry point, by name.
        features, methods, backbones, tasks, sources, formats, layers, commands, executors: specs by
            name.
    """

    def __init__(self) -> None:
        self.records: list[PluginRecord] = []
        self._specs: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
        self._specs["features"] = {spec.name: spec for spec in FEATURES}
        self._owners: dict[tuple[str, str], PluginRecord] = {}
        # names that nobody provides because the plugin that would is not usable as a whole
        self._lost: dict[tuple[str, str], PluginRecord] = {}
        self._offers: dict[tuple[str, str], list[tuple[Spec, PluginRecord]]] = {}
        #: What others have worked out from the specs; emptied whenever those change.
        self.derived: dict[Any, Any] = {}
        self._manager = pluggy.PluginManager("peftcore")
        self._manager.add_hookspecs(Discovery)

    @property
    def features(self) -> Mapping[str, FeatureSpec]:
        """Feature specs by name, those of the core among them."""
        return MappingProxyType(self._specs["features"])

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
    def formats(self) -> Mapping[str, FormatSpec]:
        """Specs of formats of data by ending."""
        return MappingProxyType(self._specs["formats"])

    @property
    def layers(self) -> Mapping[str, LayerSpec]:
        """Layer specs by the type they handle."""
        return MappingProxyType(self._specs["layers"])

    @property
    def commands(self) -> Mapping[str, CommandSpec]:
        """Command specs by name."""
        return MappingProxyType(self._specs["commands"])

    @property
    def executors(self) -> Mapping[str, ExecutorSpec]:
        """Executor specs by name."""
        return MappingProxyType(self._specs["executors"])

    def owner(self, kind: str, name: str) -> PluginRecord:
        """Return the record of the plugin that provides a name."""
        return self._owners[kind, name]

    def find(self, kind: str, name: str) -> Any:
        """Return the spec of a name.

        Raises:
            UnknownName: no installed plugin provides it; the sentence lists what there is.
        """
        specs = self._specs[kind]
        if name in specs:
            return specs[name]
        singular = kind.removesuffix("s")
        if offers := self._offers.get((kind, name)):
            raise PluginError(f"{offers[0][1].problem} (see peftcore doctor).")
        home = homes(kind).get(name, "")
        if (record := self._unusable(kind, name, home)) is not None:
            raise PluginError(f"{singular} {name!r} cannot be used: {record.why_not()}")
        have = f" Installed: {', '.join(sorted(specs))}." if specs else f" No {singular} installed."
        broken = [r.name for r in self.records if r.status not in ("ok", "disabled")]
        hint = f" Not usable: {', '.join(broken)} (see peftcore doctor)." if broken else ""
        where = f" It is part of {home}: pip install {home}" if home else ""
        raise UnknownName(f"unknown {singular} {name!r}.{nearest(name, specs)}{have}{hint}{where}")

    def _unusable(self, kind: str, name: str, home: str) -> PluginRecord | None:
        """Return the record of the plugin that would bring a name if it could be used."""
        if (kind, name) in self._lost:
            return self._lost[kind, name]
        meant = {name, f"peftcore-{name}", home}
        return next(
            (r for r in self.records if r.status != "ok" and {r.name, r.distribution} & meant), None
        )

    def whose(self, kind: str, name: str) -> str:
        """Return a name with the distribution that provides it, as sentences say it."""
        owner = self._owners.get((kind, name))
        return f"{kind.removesuffix('s')} {name}{f' of {owner.distribution}' if owner else ''}"

    def resolve(self, kind: str, name: str, field: str) -> Any:
        """Import what a field of a spec names.

        Raises:
            UnknownName: no installed plugin provides it.
            PluginError: it cannot be imported; the sentence says whose it is.
        """
        reference = getattr(self.find(kind, name), field)
        try:
            return resolve(reference)
        except PluginError as error:
            raise PluginError(f"{self.whose(kind, name)}: {error}") from error.__cause__

    def use(self, module: str) -> PluginRecord:
        """Import a module as a plugin of this process, from the folder that one works in too."""
        known = [r for r in self.records if r.name == module and r.distribution == HERE]
        if known:
            return known[0]
        if os.getcwd() not in sys.path:  # noqa: PTH109  (pathlib is slow)
            sys.path.append(os.getcwd())  # noqa: PTH109  (last, so that nothing is hidden by it)
        record = PluginRecord(module, HERE, "0.0.0")
        with redirect_stdout(sys.stderr):
            self.load(record, EntryPoint(module, module, GROUP))
        self.check_needs()
        return record

    def load(self, record: PluginRecord, point: EntryPoint) -> None:
        """Import what an entry point names and register it under a record."""
        try:
            plugin = point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.records.append(record)
            mark_broken(record, error)
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
            mark_broken(record, error)
            self._manager.unregister(name=record.key)
            return
        if conflict := self._conflict(found):
            record.status, record.problem = "conflict", conflict
            names = [(kind, name) for kind, specs in found.items() for name in specs]
            self._lost.update(dict.fromkeys(names, record))
            return
        for kind, specs in found.items():
            for name, spec in specs.items():
                self._offers.setdefault((kind, name), []).append((spec, record))
                self._settle(kind, name)

    def _settle(self, kind: str, name: str) -> None:
        """Let the one plugin that offers a name serve it; of several the one that is preferred."""
        self.derived.clear()
        if (owner := self._owners.pop((kind, name), None)) is not None:
            owner.provides[kind].remove(name)
            del self._specs[kind][name]
        offers = self._offers.get((kind, name), [])
        chosen = [offer for offer in offers if offer[1].distribution in preferred_plugins()]
        serving = offers if len(offers) == 1 else chosen if len(chosen) == 1 else []
        if len(offers) > 1:
            self._mark_contested(kind, name, serving)
        for spec, record in serving:
            self._specs[kind][name] = spec
            self._owners[kind, name] = record
            record.provides.setdefault(kind, []).append(name)
            record.provides[kind].sort()

    def _mark_contested(
        self, kind: str, name: str, serving: list[tuple[Spec, PluginRecord]]
    ) -> None:
        offers = [record for _, record in self._offers[kind, name]]
        names = " and ".join(record.distribution for record in offers)
        for record in offers:
            if any(record is winner for _, winner in serving):
                continue
            record.status = "conflict"
            record.problem = f"{kind[:-1]} {name!r} is provided by {names}; " + (
                f"{serving[0][1].distribution} serves, as {PREFER} says"
                if serving
                else f"neither serves until you choose one of them: {PREFER}=NAME"
            )

    def remove(self, record: PluginRecord) -> None:
        """Take out what a record provides, and the record."""
        for (kind, name), offers in list(self._offers.items()):
            left = [offer for offer in offers if offer[1] is not record]
            if len(left) < len(offers):
                self._offers[kind, name] = left
                self._settle(kind, name)
        self._lost = {name: lost for name, lost in self._lost.items() if lost is not record}
        self.records.remove(record)
        self._manager.unregister(name=record.key)

    @contextmanager
    def with_plugin(self, *plugin: object, name: str = "test") -> Iterator[PluginRecord]:
        """Have a plugin, an object with hooks, or specs, for a while; for tests.

        Raises:
            PluginError: it cannot be used.
        """
        record = self.register(*plugin, name=name)
        try:
            yield record
        finally:
            self.remove(record)

    def register(self, *plugin: object, name: str = "") -> PluginRecord:
        """Add a plugin of this process: see :func:`peftcore.register`."""
        if len(plugin) == 1 and not isinstance(plugin[0], tuple(KINDS.values())):
            (thing,) = plugin
        else:
            thing = SpecsAlone(plugin)
        label = name or getattr(thing, "__name__", "") or "notebook"
        for known in [r for r in self.records if r.name == label and r.distribution == HERE]:
            self.remove(known)
        record = PluginRecord(label, HERE, "0.0.0")
        self.add(record, thing)
        self.check_needs()
        if record.status != "ok":
            self.records.remove(record)
            raise PluginError(f"{label}: {record.problem}.")
        return record

    def check_needs(self) -> None:
        """Mark plugins whose methods need a feature that nobody defines, and take them out."""
        for name, spec in list(self.methods.items()):
            unknown = [feature for feature in spec.needs if feature not in self.features]
            if not unknown:
                continue
            record = self._owners["methods", name]
            names = [(kind, n) for kind, provided in record.provides.items() for n in provided]
            self.remove(record)
            self.records.append(record)
            self._lost.update(dict.fromkeys(names, record))
            record.status, record.provides = "broken", {}
            known = f" Known: {', '.join(self.features)}"
            record.problem = (
                f"method {name!r} needs the feature {unknown[0]!r}, which nobody defines."
                f"{nearest(unknown[0], self.features) or known}"
            )

    def _conflict(self, found: Mapping[str, Mapping[str, Spec]]) -> str:
        """Say which name of a plugin is the core's, or which size another backbone has."""
        core = {spec.name for spec in FEATURES}
        for kind, specs in found.items():
            for name in specs:
                if name in CORE.get(kind, ()) or (kind == "features" and name in core):
                    return f"{kind[:-1]} {name!r} is already provided by peftcore"
        sizes = {size: name for name, s in self.backbones.items() for size in s.configs}
        for name, spec in found.get("backbones", {}).items():
            for size in spec.configs if isinstance(spec, BackboneSpec) else ():
                if sizes.get(size, name) != name:
                    return f"size {size!r} is already one of {sizes[size]}"
        return ""

    def _collect(self, record: PluginRecord, plugin: object) -> dict[str, dict[str, Spec]]:
        implemented = implemented_hooks(plugin)
        self._manager.register(plugin, name=record.key)
        others = [p for p in self._manager.get_plugins() if p is not plugin]
        found: dict[str, dict[str, Spec]] = {}
        for hook in implemented:
            kind = hook.removeprefix("peftcore_register_")
            results = self._manager.subset_hook_caller(hook, others)()
            if not results:
                raise PluginError(f"{hook} returned None; return a {KINDS[kind].__name__}")
            # a spec is a tuple itself
            one = isinstance(results[0], (str, *KINDS.values()))
            one = one or not isinstance(results[0], Iterable)
            for spec in results if one else results[0]:
                name = checked(kind, spec)
                if name in found.setdefault(kind, {}):
                    raise PluginError(f"{kind[:-1]} {name!r} is registered twice")
                found[kind][name] = spec
        return found


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
        found.check_needs()
        for module in named_in(IN_PROCESS):
            found.use(module)
    return found


def register(*plugin: object, name: str = "") -> PluginRecord:
    """Add a plugin that is not installed: in a notebook, or while it is being written.

    Registering under the same name again replaces it.

    Args:
        plugin: a module or object with ``peftcore_register_...`` hooks, or specs.
        name: what to call it; the module's own name by default.

    Raises:
        PluginError: it cannot be used; the sentence says why.
    """
    return installed().register(*plugin, name=name)
