"""One client of federated training: it trains the adapter on its rows for a round."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import nn

from peftcore import Adapter
from peftcore_train import building
from peftcore_train.batches import TrainingBatches, lengths_of, loader
from peftcore_train.errors import TrainingError
from peftcore_train.loop import train_mode
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
        losses = []
        train_mode(self.model)
        for batches.epoch in range(epochs):
            for batch in loader(self.task, rows, batches, self.train.num_workers):
                batch = send_to_device(batch, self.accelerator.device)
                loss = self.task.loss(self.model, batch)
                whole = loss + self.adapter.extra_loss()
                if not torch.isfinite(whole):
                    raise TrainingError(f"the loss is {whole.item()}: lower train.learning_rate.")
                optimizer.zero_grad()
                whole.backward()
                if self.train.max_grad_norm is not None:
                    nn.utils.clip_grad_norm_(self.parameters, self.train.max_grad_norm)
                optimizer.step()
                losses.append(loss.item())
        return sum(losses) / len(losses)
