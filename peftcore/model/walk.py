"""Walking over the modules of a base; what peftcore put into them is left out."""

import inspect
from collections.abc import Iterator

import torch
from torch import nn

#: Name of the child module that holds the pieces of a rewritten module.
CONTAINER = "peftcore"


def base_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Module | None]]:
    """Yield (path, module, parent) of the base, pieces left out, shared modules every time."""
    yield "", model, None
    stack = [("", model, iter(model._modules.items()))]
    while stack:
        prefix, parent, children = stack[-1]
        for name, child in children:
            if child is None or name == CONTAINER:
                continue
            path = f"{prefix}.{name}" if prefix else name
            yield path, child, parent
            stack.append((path, child, iter(child._modules.items())))
            break
        else:
            stack.pop()


def running_of(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return what training moves though nothing trains it, by name, of a module.

    That is the running statistics of a batch norm, and the buffers that a class names as
    ``moved_in_training``, such as random projections that are drawn anew.
    """
    moved = getattr(bare_class(module), "moved_in_training", ())
    if isinstance(module, nn.modules.batchnorm._NormBase):
        moved = module._buffers
    return [(name, buffer) for name in moved if (buffer := module._buffers[name]) is not None]


# --- modules -----------------------------------------------------------------------------------


def bare_class(module: nn.Module) -> type[nn.Module]:
    """Return the class that a module had before it was rewritten."""
    found: type[nn.Module] = getattr(type(module), "_peftcore_class", type(module))
    return found


def argument_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the arguments of a module's ``forward``, in order."""
    return tuple(inspect.signature(module.forward).parameters)


def ties(model: nn.Module) -> dict[str, list[str]]:
    """Return name of a parameter to all names by which it can be reached, of those with several."""
    names: dict[int, list[str]] = {}
    for path, module, _ in base_modules(model):
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                names.setdefault(id(parameter), []).append(f"{path}.{leaf}" if path else leaf)
    return {name: found for found in names.values() if len(found) > 1 for name in found}
