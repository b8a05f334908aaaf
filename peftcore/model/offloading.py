"""Weights that accelerate keeps elsewhere between two calls of their module.

Its hooks leave such a parameter on the meta device, and bring its values in for the time of a call.
All that is known of these hooks stands here; accelerate itself is not imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from peftcore.model.walk import base_modules

#: Where accelerate leaves the hook of a module.
_HOOK = "_hf_hook"


class Keeper(NamedTuple):
    """What keeps the weights of one module.

    Attributes:
        hook: the hook, of the module itself or of one that encloses it.
        prefix: what the names of the module's tensors begin with in the hook's map.
    """

    hook: Any
    prefix: str = ""

    @property
    def device(self) -> torch.device:
        """Where the module computes."""
        return torch.device(self.hook.execution_device)

    @property
    def whole(self) -> bool:
        """Whether the hook brings in all that is inside of its module at once."""
        return bool(self.hook.place_submodules)

    def value(self, leaf: str, like: Tensor) -> Tensor:
        """Return what is kept for one tensor, in the dtype of the one in the model."""
        kept: Tensor = self.hook.weights_map[f"{self.prefix}{leaf}"]
        return kept.detach().to(like.dtype)

    @contextmanager
    def loaded(self, module: nn.Module) -> Iterator[None]:
        """Let the tensors of a module be where it computes, as they are within its call."""
        parameters, buffers = dict(module._parameters), dict(module._buffers)
        try:
            for leaf, tensor in parameters.items():
                if tensor is not None and tensor.is_meta:
                    here = self.value(leaf, tensor).to(self.device)
                    module._parameters[leaf] = nn.Parameter(here, requires_grad=False)
            for leaf, buffer in buffers.items():
                if buffer is not None and buffer.is_meta:
                    module._buffers[leaf] = self.value(leaf, buffer).to(self.device)
            yield
        finally:
            module._parameters.update(parameters)
            module._buffers.update(buffers)


def offloads(module: nn.Module) -> Any | None:
    """Return the hook of a module that keeps its weights elsewhere, or None."""
    hook = module.__dict__.get(_HOOK)
    if hook is None:
        return None
    # a hook may hold several, which act one after another
    for one in getattr(hook, "hooks", (hook,)):
        if getattr(one, "offload", False) and getattr(one, "weights_map", None) is not None:
            return one
    return None


def take_back(module: nn.Module) -> dict[str, Tensor]:
    """Free a module from a hook that offloads it; return its parameters, now where it computes."""
    hook = offloads(module)
    if hook is None:
        return {}
    keeper = Keeper(hook)
    for leaf, buffer in module._buffers.items():
        if buffer is not None and buffer.is_meta:
            module._buffers[leaf] = keeper.value(leaf, buffer).to(keeper.device)
    for leaf, tensor in module._parameters.items():
        if tensor is not None and tensor.is_meta:
            value = keeper.value(leaf, tensor).to(keeper.device)
            module._parameters[leaf] = nn.Parameter(value, requires_grad=tensor.requires_grad)
    for name in (_HOOK, "_old_forward", "forward"):
        module.__dict__.pop(name, None)
    return {leaf: tensor for leaf, tensor in module._parameters.items() if tensor is not None}


def is_hooked(module: nn.Module) -> bool:
    """Tell whether accelerate has put a hook at a module, of whatever kind."""
    return _HOOK in module.__dict__


def keepers(model: nn.Module) -> dict[str, Keeper]:
    """Return what keeps the weights of each module of the base, by path, where something does."""
    found: dict[str, Keeper] = {}
    for path, module, _ in base_modules(model):
        hook = offloads(module)
        if hook is not None:
            found[path] = Keeper(hook)
        elif found and path:
            above, _, leaf = path.rpartition(".")
            outer = found.get(above)
            if outer is not None and outer.whole:
                found[path] = Keeper(outer.hook, f"{outer.prefix}{leaf}.")
    return found


def device_of(model: nn.Module) -> torch.device:
    """Return the device on which the first parameter of a model takes part in a call."""
    for path, module, _ in base_modules(model):
        for parameter in module._parameters.values():
            if parameter is None:
                continue
            keeper = keepers(model).get(path) if parameter.is_meta else None
            return parameter.device if keeper is None else keeper.device
    return torch.device("cpu")


class Values(Mapping[str, Tensor]):
    """The tensors of a base by name; those that are kept elsewhere are read when asked for."""

    def __init__(self, model: nn.Module):
        self._keepers = keepers(model)
        self._known: dict[str, tuple[Tensor, str, str]] = {}

    def add(self, path: str, leaf: str, tensor: Tensor) -> None:
        """Add the tensor that stands in a module of the base, or that the base has there."""
        self._known[f"{path}.{leaf}" if path else leaf] = (tensor, path, leaf)

    def __getitem__(self, name: str) -> Tensor:
        tensor, path, leaf = self._known[name]
        keeper = self._keepers.get(path) if tensor.is_meta else None
        return tensor if keeper is None else keeper.value(leaf, tensor)

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)
