"""Adapters that training wrote: scoring them and predicting with them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import peftcore
from peftcore import CheckpointError
from peftcore_train import building, rundir
from peftcore_train.data import Row
from peftcore_train.experiment import jobs_in
from peftcore_train.recipes import Document
from peftcore_train.running import Scorer, make_accelerator, reload
from peftcore_train.schema import Job, Split, jobs_of


@dataclass
class Trained:
    """One trained adapter: the recipe that made it, and where it lies."""

    job: Job
    adapter: Path


def open_trained(path: Path) -> list[Trained]:
    """Return what a run directory holds, or the adapter that a directory is.

    Raises:
        ConfigError: it is neither.
        CheckpointError: the adapter was not written by training, or is not there yet.
    """
    if not (path / "adapter.json").is_file():
        return [Trained(job, place / rundir.ADAPTER) for job, place in jobs_in(path)]
    recipe = peftcore.inspect(path).get("extra", {}).get("recipe")
    if recipe is None:
        raise CheckpointError(
            f"{path} says nothing of its task: it was not written by peftcore train. Load it with"
            " peftcore.load."
        )
    (job,) = jobs_of(Document(str(path / "adapter.json"), recipe, {}))
    return [Trained(job, path)]


def score(trained: Trained, split: Split, data: str | None) -> dict[str, float]:
    """Return the metrics of a trained adapter on a split, as the training run scores it.

    Args:
        trained: the adapter.
        split: which split.
        data: folder, file or source instead of the recipe's own.
    """
    job = trained.job
    task = building.make_task(job)
    section = job.recipe.data
    if data is not None:
        section = type(section)(source=data)
    rows = task.read(section, split)
    task.check(rows)
    accelerator = make_accelerator(job.recipe.train)
    model, _, loaded = reload(job, task, trained.adapter)
    features = [task.encode(row, loaded) for row in rows]
    return Scorer(task, model, accelerator, job.recipe.train).score(features)


def predictions(trained: Trained, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Yield a prediction for each row, in order."""
    job = trained.job
    task = building.make_task(job)
    accelerator = make_accelerator(job.recipe.train)
    model, _, loaded = reload(job, task, trained.adapter)
    features = [task.encode(row, loaded, labelled=False) for row in rows]
    model = accelerator.prepare_model(model, evaluation_mode=True).eval()
    size = job.recipe.train.eval_batch_size or job.recipe.train.batch_size
    for i in range(0, len(features), size):
        batch = task.collate(features[i : i + size])
        batch = {
            name: value.to(accelerator.device) if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
        }
        with torch.no_grad(), accelerator.autocast():
            yield from task.predict(model, batch, loaded)
