"""What all image backbones share: heads around the network, images, and the checks of options."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peftcore import ConfigError, base_modules, device_of, nearest


def outside(model: nn.Module, network: str) -> tuple[str, ...]:
    """Return the paths of the modules outside of the network that hold parameters themselves."""
    if not network:
        return ()
    return tuple(
        path
        for path, module, _ in base_modules(model)
        if module._parameters and not f"{path}.".startswith(f"{network}.")
    )


def images(model: nn.Module, *shape: int) -> Tensor:
    """Return random images, [rows, channels, height, width], where the model is."""
    return torch.randn(shape).to(device_of(model))


def check_options(
    name: str, head: str, heads: Sequence[str], given: Mapping[str, Any], known: Sequence[str]
) -> None:
    """Refuse heads and options that a backbone does not have.

    Raises:
        ConfigError: all of them at once.
    """
    problems = [
        f"{option!r} is not an option of the backbone {name}.{nearest(option, known)}"
        f" Its options: {', '.join(known)}."
        for option in given
        if option not in known
    ]
    if head not in ("none", *heads):
        problems.append(
            f"the backbone {name} has no head {head!r}.{nearest(head, heads)}"
            f" Its heads: {', '.join(('none', *heads))}."
        )
    if problems:
        raise ConfigError(problems)


def unknown_size(config: str, name: str, sizes: Mapping[str, Any]) -> ConfigError:
    """Return the error for a size that a backbone does not have."""
    return ConfigError(
        f"{config!r} is not a size of {name}.{nearest(config, sizes)}"
        f" Its sizes: {', '.join(sizes)}."
    )


def dtype_of(value: Any) -> torch.dtype | None:
    """Return the dtype that an option names; None for None.

    Raises:
        ConfigError: it is no floating dtype.
    """
    found = getattr(torch, value, None) if isinstance(value, str) else value
    if value is None or (isinstance(found, torch.dtype) and found.is_floating_point):
        return found
    raise ConfigError(f"dtype {value!r} is none of float32, bfloat16, float16.")
