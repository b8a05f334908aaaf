"""What a trained adapter says of rows that have no label yet."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from peftcore import ConfigError
from peftcore_active import strategies
from peftcore_active.section import Strategy
from peftcore_train import building
from peftcore_train.data import Row
from peftcore_train.errors import TrainingError
from peftcore_train.predicting import Predictor
from peftcore_train.progress import Progress
from peftcore_train.schema import Job
from peftcore_train.task import Task
from peftcore_train.tasks.labelled import Labelled
from peftcore_train.tasks.one_label import OneLabel
from peftcore_train.trained import one_trained


def choose(
    strategy: Strategy,
    run: Path,
    pool: Sequence[Row],
    labelled: Sequence[Row],
    count: int,
    passes: int,
    seed: int | str,
) -> tuple[list[int], list[float]]:
    """Return the places of rows to label, in order, and what the strategy says of each.

    Args:
        strategy: what chooses.
        run: the run directory of what was trained so far.
        pool: rows without labels.
        labelled: rows that have labels.
        count: how many to choose.
        passes: forward passes with dropout, for ``bald``.
        seed: of that dropout.

    Raises:
        ConfigError: the run gives no probabilities, or no embeddings.
        TrainingError: nothing was dropped, so that ``bald`` says nothing.
    """
    trained = one_trained(run)
    embeds = strategy == "k_centre"
    predictor = Predictor(trained, Progress(quiet=True), embeddings=embeds)
    if embeds:
        rows = _embedded(predictor, [*pool, *labelled])
        return strategies.k_centre(rows[: len(pool)], rows[len(pool) :], count)
    check_probabilities(predictor.task, trained.job.task_type, strategy)
    if strategy == "bald":
        values = strategies.bald(_dropped(predictor, pool, passes, seed))
    else:
        values = getattr(strategies, strategy)(_probabilities(predictor, pool))
    chosen = strategies.best(values, count)
    return chosen, values[chosen].tolist()


def check_probabilities(task: Task, name: str, strategy: str) -> None:
    """Raise ConfigError where a task gives no probabilities of labels."""
    if isinstance(task, Labelled) and isinstance(task.kind, OneLabel):
        return
    raise ConfigError(
        f"{strategy} asks how likely each label is, and {name} of this recipe has no such"
        " probabilities: it is for tasks with one label a row. Take k_centre, which asks for the"
        " hidden states alone."
    )


def check_strategies(chosen: Sequence[str], job: Job, task: Task) -> None:
    """Check what can be known before training of what strategies need.

    Raises:
        ConfigError: there are no probabilities, no dropout, or no embeddings.
    """
    for strategy in chosen:
        if strategy != "k_centre":
            check_probabilities(task, job.task_type, strategy)
    model, loaded = building.load_model(job, task, on_meta=True)
    if "bald" in chosen and not _drops(job, model):
        raise ConfigError(
            "bald asks what dropout disagrees about, and nothing is dropped here: set"
            " methods[0].dropout=0.1, or leave bald out."
        )
    if "k_centre" in chosen and (
        model is not loaded.model or not hasattr(model, "base_model_prefix")
    ):
        raise ConfigError(
            f"k_centre asks for the last hidden states, and the {type(model).__name__} of the task"
            f" {job.task_type} is no model of transformers, whose could be taken; leave it out."
        )


def _drops(job: Job, model: nn.Module) -> bool:
    inside = any(m.p for m in model.modules() if isinstance(m, nn.Dropout))
    return inside or any(method.get("dropout") for method in job.recipe.methods)


def _probabilities(predictor: Predictor, rows: Sequence[Row]) -> Tensor:
    """Return the probabilities of the labels, [N, C]."""
    found = [list(one["probabilities"].values()) for one in _answers(predictor, rows)]
    return torch.tensor(found, dtype=torch.float64)


def _embedded(predictor: Predictor, rows: Sequence[Row]) -> Tensor:
    """Return the mean of the last hidden states of each row, [N, H]."""
    return torch.tensor([one["embedding"] for one in _answers(predictor, rows)])


def _answers(predictor: Predictor, rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [one for window in predictor.predictions(rows) for one in window]


def _dropped(predictor: Predictor, rows: Sequence[Row], passes: int, seed: int | str) -> Tensor:
    """Return the probabilities of passes with all dropout on, the adapter's too, [T, N, C]."""
    model: nn.Module = predictor.model.train()
    for module in model.modules():
        # statistics of a batch are no chance
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.eval()
    found = []
    for number in range(passes):
        set_seed(random.Random(f"{seed}-{number}").getrandbits(32))
        found.append(_probabilities(predictor, rows))
    together = torch.stack(found)
    if bool((together == together[0]).all()):
        raise TrainingError(
            "bald asks what dropout disagrees about, and nothing was dropped: set"
            " methods[0].dropout=0.1, or leave bald out."
        )
    return together
