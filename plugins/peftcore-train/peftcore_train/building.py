"""From a recipe to a model with an adapter, new or read from a checkpoint."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

import peftcore
from peftcore import (
    SAVED,
    Adapter,
    Backbone,
    ConfigError,
    Examples,
    Loaded,
    Plan,
    UnknownName,
    backbone_for_plan,
    backbone_for_source,
    installed,
    resolve,
)
from peftcore_train.batches import SingleRows
from peftcore_train.recipes import BackboneSection
from peftcore_train.schema import Job, TrainSection
from peftcore_train.task import Features, Task


def make_task(job: Job) -> Task:
    """Return the task of a recipe."""
    task: Task = resolve(installed().find("tasks", job.task_type).task)(job.task)
    return task


def load_model(job: Job, task: Task, *, on_meta: bool = False) -> tuple[nn.Module, Loaded]:
    """Load the backbone and let the task build its model on it.

    Args:
        job: the recipe.
        task: its task, which has learned what its head depends on.
        on_meta: read no weights; the model is on the meta device.
    """
    section = job.recipe.backbone
    options = {**task.load_options(), **section.options}
    knows = backbone(section, on_meta=on_meta)
    load = knows.load_on_meta if on_meta else knows.load
    with _quiet_transformers():
        loaded = load(section.source, head=task.head, **options)
    with torch.device("meta") if on_meta else nullcontext():
        return task.build(loaded), loaded


def outline(job: Job, task: Task) -> Loaded | None:
    """Return the tokenizer of the backbone and its configuration; None of a size, which has none.

    Args:
        job: the recipe.
        task: its task, which has learned what its head depends on.
    """
    section = job.recipe.backbone
    knows = backbone(section, on_meta=True)
    if knows.is_size(section.source):
        return None
    options = {**task.load_options(), **section.options}
    return knows.outline(section.source, head=task.head, **options)


def backbone(section: BackboneSection, *, on_meta: bool = False) -> Backbone:
    """Return what knows the recipe's backbone; on the meta device that may be a named size.

    Raises:
        ConfigError: nothing does.
        UnknownName: no installed plugin provides what the recipe names.
    """
    find = backbone_for_plan if on_meta else backbone_for_source
    try:
        return find(section.source, section.name)
    except UnknownName:
        raise
    except ConfigError as error:
        raise ConfigError(f"backbone.source: {error}") from error


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep its table of missing tensors back: what is random is said in one line, and trained."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def whole_modules(
    job: Job, task: Task, model: nn.Module, loaded: Loaded
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what is trained in full, and what is stored with the adapter but not trained.

    Raises:
        ConfigError: nothing at all would be trained.
    """
    named = dict(loaded.model.named_parameters(remove_duplicate=False))
    random = {id(named[name]) for name in loaded.fresh}
    paths = [n.rpartition(".")[0] for n, p in model.named_parameters() if id(p) in random]
    fresh = tuple(f"path:{path}" for path in dict.fromkeys(paths))
    chosen = job.recipe.modules_to_save
    saved, frozen = task.whole_modules(fresh) if chosen is None else (chosen, fresh)
    if not job.recipe.methods and not saved:
        raise ConfigError(
            f"methods is empty and {job.task_type} has no head to train; name a method, or what to"
            " train in full as modules_to_save."
        )
    return saved, frozen


def plan(job: Job, task: Task, model: nn.Module, loaded: Loaded) -> Plan:
    """Return what :func:`attach` would do."""
    saved, frozen = whole_modules(job, task, model, loaded)
    return peftcore.plan(
        model,
        job.recipe.methods,
        backbone=job.recipe.backbone.name,
        modules_to_save=saved,
        save_frozen=frozen,
    )


def attach(
    job: Job, task: Task, model: nn.Module, loaded: Loaded, rows: Sequence[Features]
) -> Adapter:
    """Put the recipe's methods on a model.

    Args:
        job: the recipe.
        task: the task, whose loss methods may look at before they start.
        model: the model.
        loaded: the backbone inside it.
        rows: encoded training rows, for methods whose start depends on data.
    """
    saved, frozen = whole_modules(job, task, model, loaded)
    return peftcore.attach(
        model,
        job.recipe.methods,
        backbone=job.recipe.backbone.name,
        modules_to_save=saved,
        save_frozen=frozen,
        examples=Examples(SingleRows(task, rows, job.recipe.seed), task.loss),
        tokenizer=loaded.tokenizer,
    )


def check_start(job: Job) -> None:
    """Check that the adapter that a recipe starts from is there, and that its task can.

    Raises:
        ConfigError: one of them is not so.
    """
    if job.recipe.start is not None:
        make_task(job).check_start(_task_of(_start(job.recipe.start)))


def _task_of(adapter: Path) -> dict[str, Any]:
    """Return the task of the run that an adapter is from; empty if it is from none."""
    extra = peftcore.inspect(adapter).get("extra", {})
    return dict(extra.get("recipe", {}).get("task", {}))


def _start(named: str) -> Path:
    """Return the directory of an adapter, of a run or its own."""
    for place in (Path(named), Path(named) / "adapter"):
        if (place / "adapter.json").is_file():
            return place
    raise ConfigError(f"from: {named} is neither an adapter nor a run directory with one.")


def start(job: Job, task: Task, adapter: Adapter) -> str:
    """Give an adapter the values of the one that its recipe starts from; say so in a line.

    Raises:
        CheckpointError: that one is of other methods or another base.
    """
    assert job.recipe.start is not None
    place = _start(job.recipe.start)
    before = _task_of(place)
    learned = {"type": job.task_type, **task.learned()}
    same = all(before.get(name) == value for name, value in learned.items())
    kept = adapter.start_from(place, heads=same)
    names = ", ".join(name.replace(f".{SAVED}", "") for name in kept)
    own = f"; {names} begin anew" if kept else ""
    return f"starting from {place}{own}"


def head_parameters(adapter: Adapter) -> list[nn.Parameter]:
    """Return the parameters of ``modules_to_save``."""
    return [s.own for s in adapter.swaps if s.selected.label == SAVED]


def optimizer(adapter: Adapter, section: TrainSection) -> torch.optim.Optimizer:
    """Return the optimizer of what the adapter trains; vectors, as biases are, do not decay.

    Each group keeps its peak learning rate as ``peak``.
    """
    head = {id(p) for p in head_parameters(adapter)}
    rate, head_rate = section.learning_rate, section.head_learning_rate or section.learning_rate
    factors = adapter.learning_rates()
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in adapter.parameters():
        peak = head_rate if id(parameter) in head else rate * factors.get(parameter, 1.0)
        decay = section.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((peak, decay), []).append(parameter)
    found = [
        {"params": params, "lr": peak, "peak": peak, "weight_decay": decay}
        for (peak, decay), params in groups.items()
    ]
    if section.optimizer == "sgd":
        return torch.optim.SGD(found, lr=rate, momentum=section.momentum)
    return torch.optim.AdamW(found, betas=section.betas, eps=section.epsilon)
