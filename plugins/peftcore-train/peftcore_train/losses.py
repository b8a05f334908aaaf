"""Losses that stay on the device until they are asked for: reading one waits for the device."""

from collections.abc import Iterator

import torch
from torch import Tensor

#: Losses that wait at most.
_MOST = 64


class Losses:
    """The losses of batches since they were last read."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, Tensor, Tensor]] = []

    def add(self, step: int, loss: Tensor, whole: Tensor) -> None:
        """Note a batch.

        Args:
            step: the optimiser step that it belongs to.
            loss: the task's loss.
            whole: the same with what methods add to it.
        """
        self._waiting.append((step, loss.detach(), whole.detach()))

    @property
    def full(self) -> bool:
        """Whether so many wait that they should be read."""
        return len(self._waiting) >= _MOST

    def read(self) -> Iterator[tuple[int, float, float]]:
        """Yield step, loss and whole loss of each batch since the last time."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        steps, losses, wholes = zip(*waiting, strict=True)
        yield from zip(
            steps, torch.stack(losses).tolist(), torch.stack(wholes).tolist(), strict=True
        )
