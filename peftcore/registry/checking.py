"""What a plugin module must be: its hooks, and the specs that they return."""

import inspect
import re
from collections.abc import Callable
from typing import Any, cast

from peftcore.errors import PluginError, nearest
from peftcore.registry.hookspecs import GROUP, OPTIONS, Discovery
from peftcore.registry.specs import (
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

#: Name of a kind, as in its hook, to its spec.
KINDS: dict[str, type] = {
    "features": FeatureSpec,
    "methods": MethodSpec,
    "backbones": BackboneSpec,
    "tasks": TaskSpec,
    "sources": SourceSpec,
    "formats": FormatSpec,
    "layers": LayerSpec,
    "commands": CommandSpec,
    "executors": ExecutorSpec,
}
_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_TYPE = re.compile(r"[A-Za-z_][\w.*]*:[A-Za-z_*][\w*]*")
_ENDING = re.compile(r"(\.[a-z0-9]+)+")
_NAME = re.compile(r"[a-z0-9][a-z0-9_./-]*")
#: Fields of specs that hold a reference.
REFERENCE_FIELDS = (
    "found", "config", "method", "backbone", "task", "model", "resolve", "layer", "command",
    "plans", "merges", "function", "executor", "reader",
)  # fmt: skip


def implemented_hooks(plugin: object) -> list[str]:
    """Return the hooks that a plugin implements."""
    known = [name for name in vars(Discovery) if name.startswith("peftcore_")]
    implemented = []
    for name in dir(plugin):
        if not name.startswith("peftcore_"):
            continue
        options = getattr(getattr(plugin, name), "peftcore_impl", None)
        marked = options is not None
        if name in known:
            if options is None:
                raise PluginError(f"{name} lacks @hookimpl")
            if option := next((option for option in OPTIONS if options.get(option)), ""):
                raise PluginError(
                    f"{name} is marked with {option}, which hooks of plugins do not have: each"
                    " plugin is asked by itself; write @hookimpl alone"
                )
            if given := _arguments(getattr(plugin, name)):
                raise PluginError(f"{name} takes no arguments, and has {', '.join(given)!r}")
            implemented.append(name)
        elif marked or name.startswith("peftcore_register"):
            raise PluginError(f"{name} is not a discovery hook of {GROUP}.{nearest(name, known)}")
    if not implemented:
        raise PluginError(f"it has no peftcore_register_... hook; known: {', '.join(known)}")
    return implemented


def _arguments(hook: Callable[..., Any]) -> list[str]:
    """Return the arguments that a hook must be given."""
    parameters = inspect.signature(hook).parameters.values()
    return [p.name for p in parameters if p.default is p.empty]


def checked(kind: str, spec: Any) -> str:
    """Check the types of a spec's fields, which a tuple does not, and return its name."""
    expected = KINDS[kind]
    if not isinstance(spec, expected):
        raise PluginError(f"peftcore_register_{kind} returned {spec!r}, not a {expected.__name__}")
    for name, kept in expected.__annotations__.items():
        value = getattr(spec, name)
        wrong = f"{name}={value!r} of {expected.__name__} is not "
        if name in REFERENCE_FIELDS:
            absent = value == "" and name in vars(expected)["_field_defaults"]
            if not absent and (not isinstance(value, str) or not _REFERENCE.fullmatch(value)):
                raise PluginError(f"{wrong}'package.module:Name'")
        elif kept == tuple[str, ...]:
            # a forgotten comma makes a string, whose characters would all be globs
            if not isinstance(value, tuple) or not all(isinstance(v, str) for v in value):
                raise PluginError(f"{wrong}a tuple of strings")
        elif kept in (str, bool) and not isinstance(value, kept):
            raise PluginError(f"{wrong}a {kept.__name__}")
    return _name_of(cast(Spec, spec))


def _name_of(spec: Spec) -> str:
    if isinstance(spec, LayerSpec):
        if not _TYPE.fullmatch(spec.type):
            raise PluginError(f"type={spec.type!r} of LayerSpec is not 'package.module:Class'")
        return spec.type
    if isinstance(spec, FormatSpec):
        if not _ENDING.fullmatch(spec.ending):
            raise PluginError(f"ending={spec.ending!r} of FormatSpec is not like '.h5ad'")
        if bool(spec.reader) == bool(spec.column):
            raise PluginError(f"{spec.ending} of FormatSpec has a reader or a column, one of them")
        return spec.ending
    if isinstance(spec, SourceSpec) and spec.kind not in ("model", "data"):
        raise PluginError(f"kind={spec.kind!r} of SourceSpec is neither 'model' nor 'data'")
    if not _NAME.fullmatch(spec.name):
        raise PluginError(f"{spec.name!r} is not a name: lower-case letters, digits, - _ . /")
    return spec.name
