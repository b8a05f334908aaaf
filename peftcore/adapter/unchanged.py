"""Whether a model is still what it was before methods looked at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peftcore.errors import PluginError
from peftcore.method.method import Method
from peftcore.registry.installed import installed

#: Values of each parameter that are compared, its last ones.
_VALUES = 4
#: Types whose tensors lie plainly in memory.
_PLAIN = (Tensor, nn.Parameter)
_DTYPES = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.uint8,
)  # fmt: skip


class Unchanged:
    """What a model was: classes, children, tensors and their versions, and a few values.

    A write to ``tensor.data`` raises no version, so values are compared too: a few of each
    parameter, in one comparison for each device.
    """

    def __init__(self, modules: Mapping[str, nn.Module]):
        self._modules = modules
        self._content = [_content(module) for module in modules.values()]
        self._values = _values(modules)

    def check(self, methods: Sequence[Method], hook: str) -> None:
        """Refuse that a hook has changed the model.

        Raises:
            PluginError: it has; the sentence names the module.
        """
        path = self._changed()
        if path is None:
            return
        whose = " or ".join(installed().whose("methods", method.name) for method in methods)
        raise PluginError(
            f"{whose} changed {path or 'the model'} in {hook}; there the model is only read."
        )

    def _changed(self) -> str | None:
        for (path, module), was in zip(self._modules.items(), self._content, strict=True):
            now = _content(module)
            if len(now) != len(was) or any(
                a is not b and not _same(a, b) for a, b in zip(now, was, strict=True)
            ):
                return path
        now_values = _values(self._modules)
        for key, (paths, before) in self._values.items():
            other = (now_values[key][1] != before).any(1)
            if other.any():
                return paths[int(other.nonzero()[0])]
        return None


def _content(module: nn.Module) -> tuple[Any, ...]:
    own = module._parameters.values()
    return (module.__class__, *module._modules, *own, *map(_version, own))


def _version(tensor: Tensor | None) -> int:
    return -1 if tensor is None else tensor._version


def _same(one: Any, two: Any) -> bool:
    return not isinstance(one, Tensor) and bool(one == two)


@torch.no_grad()
def _values(modules: Mapping[str, nn.Module]) -> dict[Any, tuple[list[str], Tensor]]:
    """Return paths and the bytes of a few values, [parameters, bytes], by device and dtype."""
    found: dict[Any, tuple[list[str], list[Tensor]]] = {}
    for path, module in modules.items():
        for tensor in module._parameters.values():
            if tensor is not None and _readable(tensor):
                paths, values = found.setdefault((tensor.device, tensor.dtype), ([], []))
                paths.append(path)
                values.append(tensor.view(-1)[-_VALUES:])
    # bytes, so that NaN is a value like any other
    return {
        key: (paths, torch.stack(values).view(torch.uint8))
        for key, (paths, values) in found.items()
    }


def _readable(tensor: Tensor) -> bool:
    plain = type(tensor) in _PLAIN and not tensor.is_meta and tensor.dtype in _DTYPES
    return plain and tensor.is_contiguous() and tensor.numel() >= _VALUES
