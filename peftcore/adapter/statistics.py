"""Running statistics of batch norms, which move in training although nothing trains them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from peftcore.model.walk import running_of

#: Part of a name in a checkpoint that tells statistics from a piece's tensors.
MARK = ".statistics."


class Statistics:
    """The statistics of a model, as the base has them; kept from the first adapter to the last."""

    def __init__(self, modules: Mapping[str, nn.Module]):
        self.base: dict[str, tuple[nn.Module, str, Tensor]] = {
            f"{path}{MARK}{leaf}": (module, leaf, buffer.clone())
            for path, module in modules.items()
            for leaf, buffer in running_of(module)
        }

    def __bool__(self) -> bool:
        return bool(self.base)

    def moved(self) -> dict[str, Tensor]:
        """Return the statistics that are not the base's, by name in a checkpoint."""
        found = {}
        for name, (module, leaf, base) in self.base.items():
            here = module._buffers[leaf]
            if here is not None and not torch.equal(here, base.to(here)):
                found[name] = here
        return found

    def take_out(self) -> dict[str, Tensor]:
        """Give the base's statistics back; return those that were there instead."""
        found = {name: tensor.clone() for name, tensor in self.moved().items()}
        for name in found:
            self._write(name, self.base[name][2])
        return found

    def put_in(self, own: Mapping[str, Tensor]) -> None:
        """Put an adapter's statistics into the model."""
        for name, tensor in own.items():
            self._write(name, tensor)

    def _write(self, name: str, value: Tensor) -> None:
        module, leaf, _ = self.base[name]
        there = module._buffers[leaf]
        assert there is not None
        with torch.no_grad():
            there.copy_(value)
