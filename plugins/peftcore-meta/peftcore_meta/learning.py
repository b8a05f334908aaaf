"""Learning a start from several tasks: by Reptile, or by training on all of them together."""

import random
from collections.abc import Iterator, Mapping, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn

from peftcore import Adapter
from peftcore_meta.section import MetaSection
from peftcore_train import building
from peftcore_train.loop import take_step
from peftcore_train.progress import Progress
from peftcore_train.schema import TrainSection
from peftcore_train.task import Features, Task

Rows = Mapping[str, Sequence[Features]]


def mini_batches(
    rows: Sequence[Features], size: int, count: int, chance: random.Random
) -> Iterator[list[Features]]:
    """Yield so many batches of rows, which are shuffled anew when all have been seen."""
    left: list[Features] = []
    for _ in range(count):
        while len(left) < min(size, len(rows)):
            left += chance.sample(list(rows), len(rows))
        yield left[:size]
        del left[:size]


class Learner:
    """Trains one adapter on rows of several tasks.

    Args:
        task: the task, whose loss is trained on.
        model: the model with its adapter, where it runs.
        adapter: what is trained.
        train: the ``train`` section: optimiser and learning rate.
        section: the ``meta`` section.
        accelerator: where the model runs.
        seed: seed of what is drawn.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        adapter: Adapter,
        train: TrainSection,
        section: MetaSection,
        accelerator: Accelerator,
        seed: int,
    ):
        self.task, self.model, self.adapter = task, model, adapter
        self.train, self.section, self.accelerator = train, section, accelerator
        self.parameters = adapter.parameters()
        self.chance = random.Random(f"{seed}-meta")

    def reptile(self, tasks: Rows, progress: Progress) -> list[float]:
        """Move the adapter to where few steps lead far on every task (Nichol et al. 2018, alg. 2).

        theta <- theta + eps (mean of phi - theta), where phi is theta after the inner steps on one
        task; eps falls linearly to 0, as in the authors' code. Each inner loop has an optimiser of
        its own.

        Returns:
            The mean loss of each outer step.
        """
        section, losses = self.section, []
        for i in progress.counted(
            range(section.iterations), "reptile", section.iterations, unit="steps"
        ):
            start = [p.detach().clone() for p in self.parameters]
            ends = [torch.zeros_like(p) for p in start]
            seen: list[float] = []
            for name in self._drawn(tasks):
                self._set(start)
                seen += self._inner(tasks[name])
                for end, parameter in zip(ends, self.parameters, strict=True):
                    end += parameter.detach() / section.tasks_per_step
            eps = section.step_size * (1 - i / section.iterations)
            self._set([a + eps * (b - a) for a, b in zip(start, ends, strict=True)])
            losses.append(sum(seen) / len(seen))
        return losses

    def joint(self, tasks: Rows, progress: Progress) -> list[float]:
        """Train on all tasks together, for as many steps as Reptile takes in all.

        Returns:
            The mean loss of each so many steps as an outer step has.
        """
        section, losses = self.section, []
        optimizer = building.optimizer(self.adapter, self.train)
        for _ in progress.counted(
            range(section.iterations), "joint", section.iterations, unit="steps"
        ):
            seen: list[float] = []
            for name in self._drawn(tasks):
                rows = self._mini_task(tasks[name])
                for batch in self._batches(rows):
                    seen.append(self._step(batch, optimizer))
            losses.append(sum(seen) / len(seen))
        return losses

    def _drawn(self, tasks: Rows) -> list[str]:
        return self.chance.choices(list(tasks), k=self.section.tasks_per_step)

    def _mini_task(self, rows: Sequence[Features]) -> list[Features]:
        return self.chance.sample(list(rows), min(self.section.inner_rows, len(rows)))

    def _batches(self, rows: Sequence[Features]) -> Iterator[list[Features]]:
        section = self.section
        return mini_batches(rows, section.inner_batch_size, section.inner_steps, self.chance)

    def _inner(self, rows: Sequence[Features]) -> list[float]:
        optimizer = building.optimizer(self.adapter, self.train)
        drawn = self._mini_task(rows)
        return [self._step(batch, optimizer) for batch in self._batches(drawn)]

    def _step(self, rows: Sequence[Features], optimizer: torch.optim.Optimizer) -> float:
        batch = send_to_device(self.task.collate(rows), self.accelerator.device)
        limit = self.train.max_grad_norm
        return take_step(self.task, self.model, self.adapter, batch, optimizer, limit)

    @torch.no_grad()
    def _set(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
