"""What training a recipe would put on its model, found without reading any weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from peftcore import Loaded, Plan, backbone_for_plan, installed, resolve
from peftcore_train import building
from peftcore_train.reading import encoded, examine
from peftcore_train.schema import Job, load_jobs
from peftcore_train.task import Task


def plans_of(file: str, settings: Sequence[str] = ()) -> dict[str, Plan]:
    """Return the plan of each arm of a recipe.

    The data is read only where the size of the head depends on it.

    Args:
        file: the recipe.
        settings: changes ``KEY=VALUE``.

    Raises:
        PeftcoreError: the recipe, the model or the methods do not fit.
    """
    plans = {}
    for job in load_jobs(file, settings):
        task = building.make_task(job)
        if task.needs_rows:
            task.learn(task.read(job.recipe.data, "train"))
        model, loaded = building.load_model(job, task, on_meta=True)
        plans[job.arm] = building.plan(job, task, model, loaded)
    return plans


def model_of(task: str, source: str, options: Mapping[str, Any]) -> nn.Module:
    """Return the model of a task whose head depends on no data, on the meta device.

    Args:
        task: name of the task, taken with its defaults.
        source: a named size, or a source of weights, which are not read.
        options: of loading, besides the task's own.

    Raises:
        ConfigError: nothing knows the source, or it does not fit the task.
    """
    spec = installed().find("tasks", task)
    made: Task = resolve(spec.task)(resolve(spec.config)())
    knows = backbone_for_plan(source)
    with torch.device("meta"):
        model = knows.build(source, head=made.head, **{**made.load_options(), **options})
        return made.build(Loaded(model, source=source))


@dataclass
class Rehearsed:
    """What several arms have in common: the data, and the model without weights.

    Attributes:
        task: the task, which knows its labels.
        model: the model, on the meta device.
        loaded: the backbone inside it.
        numbers: how many rows each split has, and the length of the longest.
    """

    task: Task
    model: nn.Module
    loaded: Loaded
    numbers: Mapping[str, Any]


def rehearse(jobs: Sequence[Job]) -> dict[str, tuple[Plan, Mapping[str, Any]]]:
    """Do all that can fail before training, short of reading weights.

    Returns:
        Of each arm the plan, and the numbers of its data.

    Raises:
        PeftcoreError: the data, the model or the methods of an arm do not fit.
    """
    found = {}
    known: dict[str, Rehearsed] = {}
    for job in jobs:
        recipe = job.recipe
        building.check_start(job)
        key = repr((recipe.backbone, recipe.data, job.task, recipe.train.trackers))
        if key not in known:
            known = {key: _rehearsed(job)}  # one model at a time
        one = known[key]
        one.task.chosen_metric(recipe.train.metric_for_best)
        found[job.arm] = building.plan(job, one.task, one.model, one.loaded), one.numbers
    return found


def _rehearsed(job: Job) -> Rehearsed:
    examined = examine(job)
    examined.profile.raise_any()
    model, loaded = building.load_model(job, examined.task, on_meta=True)
    numbers: dict[str, Any] = {"rows": examined.profile.rows}
    section = job.recipe.backbone
    # a named size has no tokenizer
    if not building.backbone(section, on_meta=True).is_size(section.source):
        encoded(examined, loaded, job)
        examined.profile.raise_any()
        spans = examined.profile.lengths.spans.values()
        numbers["longest_row"] = max((span["max"] for span in spans), default=0)
    return Rehearsed(examined.task, model, loaded, numbers)
