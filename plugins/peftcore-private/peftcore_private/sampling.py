"""Poisson sampling: each step draws each row by a throw of its own, as the accounts suppose."""

import hashlib
from collections.abc import Iterator

import torch
from opacus.utils.uniform_sampler import UniformWithReplacementSampler

from peftcore_train.batches import Pick, TrainingBatches
from peftcore_train.schema import TrainSection


def derived(seed: int, *parts: object) -> int:
    """Return a seed that depends on another one and on what it is for."""
    text = "-".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class PoissonBatches(TrainingBatches):
    """The rows of each step of an epoch; a step may draw none.

    Attributes:
        epoch: the epoch, from 0.
        start: how many steps of the epoch to leave out, when a run goes on.
    """

    def __init__(self, rows: int, section: TrainSection, seed: int):
        super().__init__([0] * rows, section, seed)

    def __iter__(self) -> Iterator[list[Pick]]:
        generator = torch.Generator().manual_seed(derived(self.seed, "rows", self.epoch))
        drawn = UniformWithReplacementSampler(
            num_samples=len(self.lengths),
            sample_rate=self.batch_size / len(self.lengths),
            generator=generator,
            steps=len(self),
        )
        for step, rows in enumerate(drawn):
            if step >= self.start:
                yield [(row, derived(self.seed, "row", self.epoch, step, row)) for row in rows]
