"""Adapters that training wrote: finding them, and scoring them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import peftcore
from peftcore import CheckpointError, ConfigError, nearest
from peftcore_train import building, recipes, rundir
from peftcore_train.experiment import jobs_in
from peftcore_train.progress import Progress
from peftcore_train.recipes import Document
from peftcore_train.running import Scorer, make_accelerator, reload
from peftcore_train.schema import Job, Split, jobs_of

#: Sections of a recipe that may be other ones once an adapter has been trained.
_CHANGEABLE = ("backbone", "task", "train")


@dataclass
class Trained:
    """One trained adapter.

    Attributes:
        job: the recipe that made it.
        adapter: its directory.
        place: the run directory, or the adapter's own where that is all there is.
    """

    job: Job
    adapter: Path
    place: Path


def was_trained(path: Path) -> bool:
    """Tell whether a directory is a run, or an adapter that training wrote."""
    if not (path / "adapter.json").is_file():
        return (path / rundir.CONFIG).is_file()
    return "recipe" in peftcore.inspect(path).get("extra", {})


def open_trained(path: Path, overrides: Sequence[str] = ()) -> list[Trained]:
    """Return what a run directory holds, or the adapter that a directory is.

    Args:
        path: the directory.
        overrides: changes ``KEY=VALUE`` of its recipe, such as ``task.num_beams=4``.

    Raises:
        ConfigError: it is neither, or a change does not fit.
        CheckpointError: the adapter was not written by training, or is not there yet.
    """
    if not (path / "adapter.json").is_file():
        found = [Trained(job, place / rundir.ADAPTER, place) for job, place in jobs_in(path)]
    else:
        recipe = peftcore.inspect(path).get("extra", {}).get("recipe")
        if recipe is None:
            raise CheckpointError(
                f"{path} says nothing of its task: it was not written by peftcore train. Load it"
                " with peftcore.load."
            )
        (job,) = jobs_of(Document(str(path / "adapter.json"), recipe, {}))
        found = [Trained(job, path, path)]
    if overrides:
        for trained in found:
            trained.job = _changed(trained, overrides)
    return found


def one_trained(path: Path, overrides: Sequence[str] = ()) -> Trained:
    """Return the one adapter of a directory; see :func:`open_trained`.

    Raises:
        ConfigError: there are several.
    """
    opened = open_trained(path, overrides)
    if len(opened) > 1:
        arms = ", ".join(str(trained.place) for trained in opened)
        raise ConfigError(f"{path} holds several runs; name one: {arms}.")
    return opened[0]


def _changed(trained: Trained, overrides: Sequence[str]) -> Job:
    for text in overrides:
        section = re.split(r"[.\[=]", text)[0]
        if section not in _CHANGEABLE:
            raise ConfigError(
                f"--set {text}: of a trained adapter only {', '.join(_CHANGEABLE)} can be changed."
                f"{nearest(section, _CHANGEABLE)}"
            )
    document = Document(str(trained.place), trained.job.resolved(), {})
    (job,) = jobs_of(recipes.changed(document, overrides))
    return job


def score(trained: Trained, split: Split, data: str | None, progress: Progress) -> dict[str, float]:
    """Return the metrics of a trained adapter on a split, as the training run scores it.

    Args:
        trained: the adapter.
        split: which split.
        data: folder, file or source instead of the recipe's own.
        progress: where to say how it goes.
    """
    job = trained.job
    task = building.make_task(job)
    section = job.recipe.data
    if data is not None:
        section = type(section)(source=data)
    with progress.doing(f"reading {section.source}"):
        rows = task.read(section, split)
        task.check(rows)
    accelerator = make_accelerator(job.recipe.train)
    with progress.doing(f"loading {job.recipe.backbone.source}"):
        model, _, loaded = reload(job, task, trained.adapter)
    coming = progress.counted(rows, f"encoding {split}", len(rows))
    features = [task.encode(row, loaded) for row in coming]
    return Scorer(task, model, accelerator, job.recipe.train, progress).score(features, split)
