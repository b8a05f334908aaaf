"""Whether a model is still what it was before methods looked at it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from peftcore.errors import PluginError
from peftcore.method.method import Method
from peftcore.registry.installed import installed


class Unchanged:
    """What a model was: classes, children, tensors and their versions.

    A write to ``tensor.data`` raises no version; the contract of methods, which has the time to
    compare every value, finds those.
    """

    def __init__(self, modules: Mapping[str, nn.Module]):
        self._modules = modules
        #: Held, so that no other tensor gets the id of one that was replaced.
        self._held = [t for m in modules.values() for t in m._parameters.values()]
        self._before = _content(modules.values())

    def check(self, methods: Sequence[Method], hook: str) -> None:
        """Refuse that a hook has changed the model.

        Raises:
            PluginError: it has; the sentence names the module.
        """
        now = _content(self._modules.values())
        if now == self._before:
            return
        path = next(
            path
            for i, (path, module) in enumerate(self._modules.items())
            if any(a[i] != b[i] for a, b in zip(now, self._before, strict=True))
        )
        whose = " or ".join(installed().whose("methods", method.name) for method in methods)
        raise PluginError(
            f"{whose} changed {path or 'the model'} in {hook}; there the model is only read."
        )


def _content(modules: Iterable[nn.Module]) -> tuple[list[Any], list[Any], list[Any]]:
    """Return what differs once someone changed one of some modules: lists of one item for each."""
    return (
        [module.__class__ for module in modules],
        [[*module._modules.values()] for module in modules],
        [_tensors(module) if module._parameters else () for module in modules],
    )


def _tensors(module: nn.Module) -> list[Any]:
    # one on the meta device has no values; where it is offloaded each call makes a new one
    return [
        t.shape if t.is_meta else (id(t), t._version)
        for t in module._parameters.values()
        if t is not None
    ]
