"""Order of batches, and learning rates."""

import random

import pytest
import torch
from transformers import get_scheduler

from peftcore_train.batches import ScoringBatches, TrainingBatches
from peftcore_train.schedules import Plateau, lowered, schedule
from peftcore_train.schema import TrainSection

LENGTHS = [3 + (7 * i) % 50 for i in range(103)]


def training(**section) -> TrainingBatches:
    return TrainingBatches(LENGTHS, TrainSection(batch_size=8, **section), seed=5)


@pytest.mark.parametrize("grouped", [True, False])
def test_every_epoch_holds_every_row_once_in_another_order(grouped):
    batches = training(group_by_length=grouped)
    epochs = []
    for epoch in range(3):
        batches.epoch = epoch
        epochs.append(list(batches))
    for epoch in epochs:
        assert sorted(index for batch in epoch for index, _ in batch) == list(range(103))
        assert [len(batch) for batch in epoch] == [8] * 12 + [7]
    assert epochs[0] != epochs[1]
    assert len(batches) == 13


def test_an_epoch_goes_on_where_it_stopped():
    batches = training()
    batches.epoch = 2
    whole = list(batches)
    batches.start = 5
    assert list(batches) == whole[5:]


def test_rows_of_similar_length_share_a_batch():
    def padding(batches):
        lengths = [[LENGTHS[i] for i, _ in batch] for batch in batches]
        return sum(max(part) * len(part) - sum(part) for part in lengths)

    plain = padding(training(group_by_length=False))
    assert padding(training(mega_batch_mult=50)) < padding(training()) < plain / 2


def test_rows_that_share_a_batch_part_in_the_next_epoch():
    def together(batches, epoch):
        batches.epoch = epoch
        return {frozenset((a, b)) for batch in batches for a, _ in batch for b, _ in batch if a < b}

    def again(**section):
        first, second = (together(training(**section), epoch) for epoch in (0, 1))
        return len(first & second) / len(first)

    # all rows sorted by length would be nearly the same batches in every epoch
    assert again(mega_batch_mult=4) < again(mega_batch_mult=50) / 2


def test_an_epoch_of_fewer_rows_draws_them_anew():
    batches = training(samples_per_epoch=16)
    first = {index for batch in batches for index, _ in batch}
    batches.epoch = 1
    assert len(first) == 16
    assert first != {index for batch in batches for index, _ in batch}


def test_scoring_is_always_the_same():
    batches = ScoringBatches(LENGTHS, 8)
    assert list(batches) == list(batches)
    assert sorted(index for batch in batches for index, _ in batch) == list(range(103))


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
def test_rates_are_those_of_transformers(name):
    section = TrainSection(lr_scheduler=name, warmup_ratio=0.2, learning_rate=1.0)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    theirs_name = "constant_with_warmup" if name == "constant" else name
    theirs = get_scheduler(theirs_name, optimizer, num_warmup_steps=4, num_training_steps=20)
    ours = schedule(section, 20)
    for step in range(20):
        assert ours(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("longer", [1, 2])
def test_restarts_are_those_of_torch(longer):
    section = TrainSection(
        lr_scheduler="cosine_with_restarts", restart_steps=10, restart_multiplier=longer,
        min_lr_ratio=0.004, learning_rate=1.0,
    )  # fmt: skip
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, 10, T_mult=longer, eta_min=0.004
    )
    ours = schedule(section, 75)
    for step in range(75):
        assert ours(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_a_plateau_lowers_the_rate_as_torch_does() -> None:
    section = TrainSection(lr_scheduler="plateau", plateau_patience=2, min_lr_ratio=0.1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=2, min_lr=0.1
    )
    ours, parts = Plateau(), []
    chance = random.Random(3)
    losses = [1.0, 0.9, 0.89999, 0.89998, *(0.9 + chance.random() / 9 for _ in range(30)), 0.5, 0.6]
    for loss in losses:
        theirs.step(loss)
        ours = lowered(section, ours, loss)
        parts.append(ours.part)
        assert ours.part == optimizer.param_groups[0]["lr"], loss
    assert parts[-1] == 0.1 and 0.5 in parts
