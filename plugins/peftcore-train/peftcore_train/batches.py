"""Batches of encoded rows, in an order that depends on the seed and the epoch alone."""

import random
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from peftcore_train.schema import TrainSection
from peftcore_train.task import Batch, Features, Task

#: A row of a batch: its index, and the seed of what happens to it at random.
Pick = tuple[int, int]


class EncodedRows(Dataset[Features]):
    """Encoded rows; each is changed at random when it is picked."""

    def __init__(self, task: Task, features: Sequence[Features], *, training: bool):
        self.task = task
        self.features = features
        self.training = training

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, pick: Pick) -> Features:
        index, draw = pick
        generator = torch.Generator().manual_seed(draw)
        features = self.features[index]
        if self.training:
            features = self.task.distort(features, generator)
        return self.task.augment(features, generator)


class TrainingBatches(Sampler[list[Pick]]):
    """Batches of training, shuffled anew for each epoch, from a place within the epoch on.

    Attributes:
        epoch: the epoch, from 0.
        start: how many batches of the epoch to leave out, when a run goes on.
    """

    drop_last = False

    def __init__(self, lengths: Sequence[int], section: TrainSection, seed: int):
        self.lengths = lengths
        self.batch_size = section.batch_size
        self.grouped = section.group_by_length
        self.span = section.mega_batch_mult * section.batch_size
        self.rows = min(section.samples_per_epoch or len(lengths), len(lengths))
        self.seed = seed
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[list[Pick]]:
        chance = random.Random(f"{self.seed}-{self.epoch}")
        order = chance.sample(range(len(self.lengths)), self.rows)
        if self.grouped:
            order = self._grouped(order)
        batches = [
            [(index, chance.getrandbits(63)) for index in order[i : i + self.batch_size]]
            for i in range(0, len(order), self.batch_size)
        ]
        # accelerate wants the incomplete batch last
        whole = len(order) // self.batch_size
        full, rest = batches[:whole], batches[whole:]
        if self.grouped:
            chance.shuffle(full)
        yield from (*full, *rest)[self.start :]

    def _grouped(self, order: list[int]) -> list[int]:
        spans = (order[i : i + self.span] for i in range(0, len(order), self.span))
        return [i for part in spans for i in sorted(part, key=lambda row: self.lengths[row])]


class ScoringBatches(Sampler[list[Pick]]):
    """Batches for scoring: always the same, the longest rows first."""

    drop_last = False

    def __init__(self, lengths: Sequence[int], batch_size: int):
        self.batch_size = batch_size
        self.order = sorted(range(len(lengths)), key=lambda row: -lengths[row])

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[list[Pick]]:
        for i in range(0, len(self.order), self.batch_size):
            yield [
                (index, random.Random(f"row-{index}").getrandbits(63))
                for index in self.order[i : i + self.batch_size]
            ]


class SingleRows:
    """Encoded rows in a random order that depends on the seed alone, as batches of one."""

    def __init__(self, task: Task, features: Sequence[Features], seed: int):
        self.task = task
        self.features = features
        self.seed = seed

    def __iter__(self) -> Iterator[Batch]:
        count = len(self.features)
        for index in random.Random(f"{self.seed}-single").sample(range(count), count):
            yield self.task.collate([self.features[index]])


def lengths_of(features: Sequence[Features]) -> list[int]:
    """Return the length of each row, for grouping."""
    return [int(row.get("length", 0)) for row in features]


def loader(
    task: Task, features: Sequence[Features], batches: Sampler[list[Pick]], workers: int = 0
) -> DataLoader[Features]:
    """Return a loader of batches."""
    return DataLoader(
        EncodedRows(task, features, training=isinstance(batches, TrainingBatches)),
        batch_sampler=batches,
        collate_fn=task.collate,
        num_workers=workers,
        # without one of its own, every pass over the data would draw from the global generator
        generator=torch.Generator(),
    )


def scoring_loader(
    task: Task, features: Sequence[Features], section: TrainSection
) -> DataLoader[Features]:
    """Return the loader of a split that is scored."""
    size = section.eval_batch_size or section.batch_size
    return loader(task, features, ScoringBatches(lengths_of(features), size), section.num_workers)


def scoring_order(features: Sequence[Features]) -> list[int]:
    """Return the index of each row in the order in which :func:`scoring_loader` has them."""
    return ScoringBatches(lengths_of(features), 1).order
