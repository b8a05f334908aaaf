"""Whether a model is still what it was before methods looked at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from peftcore.errors import PluginError
from peftcore.method.method import Method
from peftcore.registry.installed import installed


class _Content(NamedTuple):
    """What differs once someone changed a module; holding the tensors keeps their ids theirs."""

    key: tuple[Any, ...]
    tensors: tuple[Tensor | None, ...]


class Unchanged:
    """What a model was: classes, children, tensors and their versions.

    A write to ``tensor.data`` raises no version; the contract of methods, which has the time to
    compare every value, finds those.
    """

    def __init__(self, modules: Mapping[str, nn.Module]):
        self._modules = modules
        self._before = [_content(module) for module in modules.values()]

    def check(self, methods: Sequence[Method], hook: str) -> None:
        """Refuse that a hook has changed the model.

        Raises:
            PluginError: it has; the sentence names the module.
        """
        for (path, module), was in zip(self._modules.items(), self._before, strict=True):
            if _content(module).key != was.key:
                whose = " or ".join(installed().whose("methods", method.name) for method in methods)
                raise PluginError(
                    f"{whose} changed {path or 'the model'} in {hook}; there the model is only"
                    " read."
                )


def _content(module: nn.Module) -> _Content:
    tensors = tuple(module._parameters.values())
    versions = [-1 if t is None else t._version for t in tensors]
    return _Content((module.__class__, *module._modules, *map(id, tensors), *versions), tensors)
