"""Whether a model is still what it was before methods looked at it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
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
        self._tensors = [t for m in modules.values() for t in m._parameters.values()]
        self._before = _content(modules.values())

    def check(self, methods: Sequence[Method], hook: str) -> None:
        """Refuse that a hook has changed the model.

        Raises:
            PluginError: it has; the sentence names the module.
        """
        now = _content(self._modules.values())
        if now == self._before:
            return
        # a module's own content starts with its class, so that the first difference finds it
        same = next(i for i, pair in enumerate(zip_longest(now, self._before)) if len({*pair}) > 1)
        count = sum(1 for thing in now[: same + 1] if isinstance(thing, type))
        path = list(self._modules)[max(count - 1, 0)]
        whose = " or ".join(installed().whose("methods", method.name) for method in methods)
        raise PluginError(
            f"{whose} changed {path or 'the model'} in {hook}; there the model is only read."
        )


def _content(modules: Iterable[nn.Module]) -> list[Any]:
    """Return what differs once someone changed one of some modules, one after another."""
    found: list[Any] = []
    for module in modules:
        found.append(module.__class__)
        found.extend(module._modules.values())
        for tensor in module._parameters.values():
            if tensor is None:
                continue
            # one on the meta device has no values; where it is offloaded each call makes a new one
            found.append(tensor.shape if tensor.is_meta else (id(tensor), tensor._version))
    return found
