"""One client of federated training: it trains the adapter on its rows for a round."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import nn

from peftcore import Adapter
from peftcore_train import building
from peftcore_train.batches import TrainingBatches, lengths_of, loader
from peftcore_train.loop import take_step, train_mode
from peftcore_train.schema import TrainSection
from peftcore_train.task import Features, Task


class Site:
    """What trains and what is sent; clients of one process take turns with it.

    Attributes:
        names: names of the tensors that are sent.
        parameters: the tensors.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        adapter: Adapter,
        train: TrainSection,
        accelerator: Accelerator,
    ):
        self.task, self.model, self.adapter = task, model, adapter
        self.train, self.accelerator = train, accelerator
        named = dict(adapter.named_parameters())
        self.names, self.parameters = list(named), list(named.values())

    @torch.no_grad()
    def put(self, values: Sequence[torch.Tensor]) -> None:
        """Take values over."""
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def values(self) -> list[torch.Tensor]:
        """Return copies of the values, on the CPU."""
        return [p.detach().to("cpu", copy=True) for p in self.parameters]

    def fit(self, rows: Sequence[Features], epochs: int, seed: int) -> float:
        """Train on rows with an optimiser of this round, and return the mean loss.

        Raises:
            TrainingError: a loss is not finite.
        """
        torch.manual_seed(seed)  # dropout must not depend on whose turn it was before
        optimizer = building.optimizer(self.adapter, self.train)
        batches = TrainingBatches(lengths_of(rows), self.train, seed)
        losses, limit = [], self.train.max_grad_norm
        train_mode(self.model)
        for batches.epoch in range(epochs):
            for batch in loader(self.task, rows, batches, self.train.num_workers):
                batch = send_to_device(batch, self.accelerator.device)
                losses.append(
                    take_step(self.task, self.model, self.adapter, batch, optimizer, limit)
                )
        return sum(losses) / len(losses)
