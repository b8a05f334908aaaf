"""What all image backbones share: heads around the network, images, and the checks of options."""

from typing import Any

import torch
from torch import Tensor, nn

from peftcore import ConfigError, base_modules, device_of


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


def dtype_of(value: Any) -> torch.dtype | None:
    """Return the dtype that an option names; None for None.

    Raises:
        ConfigError: it is no floating dtype.
    """
    found = getattr(torch, value, None) if isinstance(value, str) else value
    if value is None or (isinstance(found, torch.dtype) and found.is_floating_point):
        return found
    raise ConfigError(f"dtype {value!r} is none of float32, bfloat16, float16.")
