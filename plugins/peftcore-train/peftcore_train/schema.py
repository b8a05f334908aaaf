"""The sections of a recipe that training reads. Imports no torch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from peftcore import ConfigError, PeftcoreError, Strict, installed, nearest, resolve
from peftcore_train import arms, recipes
from peftcore_train.paths import PathText, is_there
from peftcore_train.recipes import Document, Problems

Split = Literal["train", "validation", "test"]
#: Kinds of findings that a recipe may accept.
Acceptable = Literal["leak", "conflict", "label-spelling", "label-number", "unknown-token"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class DataSection(Strict):
    """Where the rows come from."""

    source: PathText = Field(
        description="A folder of train, validation and test files (.jsonl, .csv, .tsv, .parquet,"
        " .txt, or what plugins read, see `peftcore list formats`) or folders (of files such as"
        " images, saved by datasets), one file with a column `split`, one that `split` divides, or"
        " a named source such as `samples/movie-sentiment`.",
    )
    files: dict[Split, PathText] = Field(
        {}, description="File of a split, where it is not named after the split."
    )
    limits: dict[Split, int] = Field(
        {}, description="At most this many rows of a split, drawn with `seed`, kept in order."
    )
    picked: dict[Split, tuple[int, ...]] = Field(
        {},
        description="Numbers of the rows of a split that are taken, from 0, among those that"
        " `limits` leaves.",
    )
    split: dict[Split, float] | None = Field(
        None,
        description="Divide one file or folder without splits at random: `{validation: 0.1, test:"
        " 0.1}`. Each label keeps its proportion, and rows that are the same stay together.",
    )
    labels: PathText | None = Field(
        None,
        description="A table (.csv, .tsv) with a column `id`, beside or in the source, whose other"
        " columns are added to the rows of that id, as those of a .fasta.",
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="Seed of the draw for `limits` and for `split`."
    )

    accept: tuple[Acceptable, ...] = Field(
        (),
        description="Kinds of errors in the data that are known and meant, and are warnings then:"
        " `leak`, `conflict`, `label-spelling`, `label-number`, `unknown-token`.",
    )

    @model_validator(mode="after")
    def _limits_are_positive(self) -> "DataSection":
        for split, limit in self.limits.items():
            if limit < 1:
                raise ValueError(f"limits.{split} is {limit}; at least one row is needed")
        return self

    @model_validator(mode="after")
    def _picks_are_rows(self) -> "DataSection":
        for split, numbers in self.picked.items():
            if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
                raise ValueError(f"picked.{split}: give numbers of rows from 0, each once")
        return self

    @model_validator(mode="after")
    def _training_keeps_rows(self) -> "DataSection":
        if self.split is None:
            return self
        if set(self.split) != {"validation", "test"}:
            raise ValueError("split: give the shares of validation and test; training has the rest")
        if min(self.split.values()) <= 0 or sum(self.split.values()) >= 1:
            raise ValueError("split: shares are above 0, and below 1 together")
        return self


class TrainSection(Strict):
    """How to train."""

    epochs: int = Field(3, ge=1, le=100_000, description="Passes over the training rows.")
    max_steps: int | None = Field(
        None, ge=1, description="Stop after this many optimiser steps, within an epoch if need be."
    )
    batch_size: int = Field(32, ge=1, le=65_536, description="Rows of a forward pass.")
    eval_batch_size: int | None = Field(
        None, ge=1, le=65_536, description="Rows of a forward pass when scoring; as in training."
    )
    gradient_accumulation_steps: int = Field(
        1, ge=1, le=65_536, description="Forward passes for one optimiser step."
    )
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="AdamW, or SGD with `momentum`, whose decay is part of the gradient."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD.")
    learning_rate: float = Field(1e-3, gt=0, le=100, description="Peak rate of the optimizer.")
    head_learning_rate: float | None = Field(
        None, gt=0, le=100, description="Rate of `modules_to_save`; `learning_rate` if not given."
    )
    weight_decay: float = Field(
        0.0, ge=0, le=1e6, description="Weight decay; vectors (biases, norms) are left out."
    )
    betas: tuple[float, float] = Field((0.9, 0.999), description="Moment decays of AdamW.")
    epsilon: float = Field(1e-8, gt=0, le=1, description="Epsilon of AdamW.")
    lr_scheduler: Literal["linear", "cosine", "constant", "cosine_with_restarts", "plateau"] = (
        Field(
            "linear",
            description="How the rate falls after the warm-up; `plateau`: where the validation loss"
            " has not fallen for longer than `plateau_patience` epochs.",
        )
    )
    plateau_factor: float = Field(
        0.5, gt=0, lt=1, description="What `plateau` multiplies the rate by."
    )
    plateau_patience: int = Field(
        5, ge=0, le=100_000, description="Epochs without a lower loss that `plateau` bears."
    )
    restart_steps: int | None = Field(
        None, ge=1, description="Optimiser steps of the first cycle of `cosine_with_restarts`."
    )
    restart_multiplier: float = Field(
        1.0, ge=1, le=1000, description="How much longer each cycle is, its warm-up left out."
    )
    restart_decay: float = Field(
        1.0, gt=0, le=1, description="Peak of each cycle, as a part of that of the one before."
    )
    restart_warmup_steps: int = Field(
        0, ge=0, le=10**9, description="Steps in which the rate rises at the start of each cycle."
    )
    min_lr_ratio: float = Field(
        0.0, ge=0, le=1, description="Where the rate ends, as a part of the peak."
    )
    warmup_ratio: float = Field(
        0.0, ge=0, lt=1, description="Part of all steps in which the rate rises from 0."
    )
    max_grad_norm: float | None = Field(
        1.0, gt=0, le=1e6, description="Clip the gradient's norm to this; null clips nothing."
    )
    mixed_precision: Literal["no", "fp16", "bf16"] = Field(
        "no", description="Precision of the forward pass, through accelerate."
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in backward: less memory, more time."
    )
    device: Literal["auto", "cpu"] = Field("auto", description="`auto` uses an accelerator.")
    group_by_length: bool = Field(
        True, description="Put rows of similar length into one batch, so that less is padded."
    )
    mega_batch_mult: int = Field(
        4,
        ge=1,
        le=10_000,
        description="With `group_by_length`: in so many batches, drawn at random, rows are sorted"
        " by length. Fewer mix rows better from epoch to epoch, more pad less.",
    )
    samples_per_epoch: int | None = Field(
        None, ge=1, description="Rows of an epoch, drawn anew for each; all of them if not given."
    )
    num_workers: int = Field(0, ge=0, le=256, description="Processes that prepare batches.")
    metric_for_best: str | None = Field(
        None, description="Validation metric that chooses the best epoch; the task's own choice."
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, description="Stop after this many epochs without a better score."
    )
    log_steps: int = Field(
        10, ge=1, description="Steps between lines of the log and of metrics.jsonl."
    )
    save_steps: int | None = Field(
        None, ge=1, description="Optimiser steps between saved states, besides every epoch's end."
    )
    save_minutes: float | None = Field(
        None,
        gt=0,
        le=100_000,
        description="Minutes between saved states, besides every epoch's end.",
    )
    save_total_limit: int = Field(
        1,
        ge=1,
        le=1000,
        description="Saved states to keep, the last ones. Of several each holds its `adapter/`; the"
        " adapter of the best epoch is kept in any case.",
    )
    trackers: tuple[str, ...] = Field(
        (),
        description="Trackers of accelerate: `tensorboard`, `wandb`, `trackio`, `mlflow`; each is"
        " an extra, `pip install 'peftcore-train[tensorboard]'`.",
    )

    @model_validator(mode="after")
    def _restarts_are_spaced(self) -> "TrainSection":
        if (self.lr_scheduler == "cosine_with_restarts") != (self.restart_steps is not None):
            raise ValueError(
                "restart_steps and lr_scheduler: cosine_with_restarts go together; write both, or"
                " neither"
            )
        for name in ("restart_multiplier", "restart_decay", "restart_warmup_steps"):
            default = type(self).model_fields[name].default
            if self.restart_steps is None and getattr(self, name) != default:
                raise ValueError(f"{name} goes with lr_scheduler: cosine_with_restarts")
        if self.restart_steps is not None and self.restart_warmup_steps >= self.restart_steps:
            raise ValueError(
                "restart_warmup_steps is less than restart_steps, which it is a part of"
            )
        return self


class TrainRecipe(recipes.Recipe):
    """A recipe that can be trained."""

    model_config = {"extra": "forbid"}

    task: dict[str, Any] = Field(description="`type` names the task; the rest is the task's own.")
    data: DataSection = Field(description="Where the rows come from.")
    train: TrainSection = Field(TrainSection(), description="How to train.")
    start: PathText | None = Field(
        None,
        alias="from",
        description="A run directory, or an adapter of the same methods on the same network, whose"
        " values this one starts from; the head is taken over where task and labels are the same.",
    )
    output: PathText = Field("runs", description="Folder that run directories go into.")


@dataclass(frozen=True)
class Job:
    """One thing to train: a recipe with its task's configuration, both validated.

    Attributes:
        arm: name of the arm under ``compare``, or an empty string.
        recipe: the recipe.
        task: configuration of the task.
    """

    arm: str
    recipe: TrainRecipe
    task: Strict

    @property
    def task_type(self) -> str:
        """Name of the task."""
        return str(self.recipe.task["type"])

    def resolved(self, **task: Any) -> dict[str, Any]:
        """Return the recipe with every default spelled out; it can be trained again.

        Args:
            task: what the data said of the task, such as its labels.
        """
        data = self.recipe.model_dump(mode="json", by_alias=True)
        mine = {**self.task.model_dump(mode="json"), **task}
        data["task"] = {"type": self.task_type, **mine}
        return data


def anchored(document: Document) -> Document:
    """Write local paths in full, so that a run can be read from any folder."""
    locations: tuple[recipes.Loc, ...] = (("backbone", "source"), ("data", "source"), ("from",))
    for loc in locations:
        source = document.at(loc)
        named = isinstance(source, str) and source in installed().sources
        if isinstance(source, str) and not named and is_there(source):
            place = document.origin(loc)
            document = recipes.override(
                document, recipes.dotted(loc), str(Path(source).resolve()), place
            )
    return document


def load_jobs(path: str | Path, overrides: Sequence[str] = ()) -> list[Job]:
    """Read a recipe and check every part of it that can be checked without its data.

    Raises:
        ConfigError: all problems at once, sorted by line.
        UnknownName: one of them is a method, task or backbone that no plugin provides.
    """
    return jobs_of(read_recipe(path, overrides))


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Document:
    """Read a recipe and apply overrides, which must be of its sections.

    Raises:
        ConfigError: the file is no recipe, or an override does not fit.
    """
    fields = TrainRecipe.model_fields.items()
    known = {*(info.alias or name for name, info in fields), *arms.sections()}
    for text in overrides:
        section = re.split(r"[.\[=]", text)[0]
        if section not in known:
            where = " or ".join(f"{place}.{text}" for place in _places_of(section))
            remedy = f" Write {where}." if where else nearest(section, known)
            raise ConfigError(f"--set {text}: a recipe has no section {section!r}.{remedy}")
    return recipes.read(path, overrides)


def _places_of(field: str) -> list[str]:
    """Return the parts of a recipe that can have a field."""
    kinds: dict[str, list[type[Strict]]] = {
        "methods[0]": [resolve(spec.config) for spec in installed().methods.values()],
        "task": [resolve(spec.config) for spec in installed().tasks.values()],
        "train": [TrainSection],
        "data": [DataSection],
        "backbone": [recipes.BackboneSection],
    }
    return [place for place, kind in kinds.items() if any(field in k.model_fields for k in kind)]


def jobs_of(document: Document) -> list[Job]:
    """Return what a document says to train, one job for each arm; see :func:`load_jobs`.

    Every setting and seed of a comparison is checked; of each arm the first one is returned.
    """
    found = Problems()
    jobs: dict[str, Job] = {}
    for part in arms.parts(document, found):
        job = checked_job(part.document, found, part.arm)
        if job is not None:
            jobs.setdefault(part.arm, job)
    found.raise_any()
    return list(jobs.values())


def job_of(document: Document) -> Job:
    """Return what a recipe without arms trains.

    Raises:
        ConfigError: all problems at once, sorted by line.
    """
    found = Problems()
    job = checked_job(document, found)
    found.raise_any()
    assert job is not None
    return job


def checked_job(document: Document, found: Problems, arm: str = "") -> Job | None:
    """Validate a recipe without arms; note its problems and return None if there are any."""
    recipe = recipes.checked(document, TrainRecipe, found)
    recipes.check_methods(document, found)
    _check_backbone(document, found)
    task = _checked_task(document, found)
    return None if recipe is None or task is None else Job(arm, recipe, task)


def _check_backbone(document: Document, found: Problems) -> None:
    name = document.at(("backbone", "name"))
    if isinstance(name, str) and name != "structural":
        _find("backbones", name, document, ("backbone", "name"), found)


def _checked_task(document: Document, found: Problems) -> Strict | None:
    section = document.at(("task",))
    if not isinstance(section, dict):
        return None
    name = section.get("type")
    if not isinstance(name, str):
        known = ", ".join(sorted(installed().tasks))
        found.add(document, ("task",), f"task has no type: name one of {known}.")
        return None
    spec = _find("tasks", name, document, ("task", "type"), found)
    if spec is None:
        return None
    config: type[Strict] = resolve(spec.config)
    return recipes.checked(document, config, found, loc=("task",), label=name, without=("type",))


def _find(
    kind: str, name: str, document: Document, loc: recipes.Loc, found: Problems
) -> Any | None:
    try:
        return installed().find(kind, name)
    except PeftcoreError as error:
        found.add(document, loc, str(error), type(error))
        return None
