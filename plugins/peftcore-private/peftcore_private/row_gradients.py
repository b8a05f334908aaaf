"""Gradients of single rows: a row at a time, which serves everything, or a batch at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from peftcore import Adapter
from peftcore_private.hooked import Hooked, Unhooked
from peftcore_train.task import Features, Task

#: Gradients by parameter, each [rows, ...], and the mean loss of the rows.
Gradients = tuple[dict[nn.Parameter, Tensor], Tensor]


class RowGradients:
    """Makes the gradient of each row's loss, as if the row were alone.

    Attributes:
        way: ``batches`` or ``rows``.
    """

    def __init__(self, task: Task, model: nn.Module, adapter: Adapter, device: torch.device):
        self.task, self.model, self.adapter, self.device = task, model, adapter, device
        self.parameters = adapter.parameters()
        self.way = "rows"
        self.hooked: Hooked | None = None

    def __call__(self, rows: Sequence[Features]) -> Gradients:
        """Return the gradients of rows; of no rows they are empty."""
        if self.hooked is not None and rows:
            return self.by_batch(rows)
        return self.by_row(rows)

    def check_alive(self, rows: Sequence[Features]) -> None:
        """Check that everything trained gets a gradient.

        Raises:
            DeadPieceError: a piece never ran, or its gradient does not reach it.
        """
        self.adapter.check_alive(self._loss(rows))

    def by_row(self, rows: Sequence[Features]) -> Gradients:
        """Return the gradients by a pass for each row."""
        found = {p: p.new_zeros((len(rows), *p.shape)) for p in self.parameters}
        total = torch.zeros((), device=self.device)
        for i, row in enumerate(rows):
            loss = self._loss([row])
            grads = torch.autograd.grad(loss, self.parameters, allow_unused=True)
            for parameter, grad in zip(self.parameters, grads, strict=True):
                if grad is not None:
                    found[parameter][i] = grad
            total += loss.detach()
        return found, total / max(1, len(rows))

    def by_batch(self, rows: Sequence[Features]) -> Gradients:
        """Return the gradients by one pass.

        Raises:
            Unhooked: they cannot be told apart.
        """
        assert self.hooked is not None
        with self.hooked.recording(len(rows)) as record:
            loss = self._loss(rows)
            grads = torch.autograd.grad(
                loss, [*record.outputs, *self.parameters], allow_unused=True
            )
        mine = len(record.outputs)
        reached = {p for p, g in zip(self.parameters, grads[mine:], strict=True) if g is not None}
        # the loss is the mean over rows: undone here, so that each counts as if it were alone
        found = record.gradients([None if g is None else g * len(rows) for g in grads[:mine]])
        if missing := reached - found.keys():
            raise Unhooked(f"{len(missing)} tensors are used where no layer or piece is called")
        zero = {p: p.new_zeros((len(rows), *p.shape)) for p in self.parameters if p not in found}
        return found | zero, loss.detach()

    def choose(self, wanted: str, rows: Sequence[Features]) -> str:
        """Choose the way by what the first rows give; return why not batches, or nothing.

        Args:
            wanted: ``auto``, ``batches`` or ``rows``.
            rows: rows to try it with; the model is in evaluation mode.
        """
        if wanted == "rows":
            return ""
        try:
            self.hooked = Hooked(self.adapter, self.model)
            found, loss = self.by_batch(rows)
        except Unhooked as error:
            return self._rows(str(error))
        expected, alone = self.by_row(rows)
        if not torch.allclose(loss, alone, rtol=1e-4):
            return self._rows("the loss of a batch is not the mean of the losses of its rows")
        for parameter, there in expected.items():
            most = float(there.abs().max())
            if not torch.allclose(found[parameter], there, rtol=1e-3, atol=1e-4 * most + 1e-9):
                return self._rows("a batch gives other gradients than its rows")
        self.way = "batches"
        return ""

    def _rows(self, why: str) -> str:
        self.hooked = None
        return why

    def _loss(self, rows: Sequence[Features]) -> Tensor:
        batch: Any = send_to_device(self.task.collate(list(rows)), self.device)
        return self.task.loss(self.model, batch) + self.adapter.extra_loss()


def in_parts(rows: Sequence[Features], size: int) -> list[Sequence[Features]]:
    """Return rows in parts; one empty part of no rows."""
    return [rows[i : i + size] for i in range(0, len(rows), size)] or [[]]
