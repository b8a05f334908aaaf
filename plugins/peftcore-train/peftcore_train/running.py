"""Running what a recipe says: one run directory for each set of methods."""

import gc
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

import peftcore
from peftcore import Adapter, CheckpointError, Loaded, Plan
from peftcore_train import building, processes, row_scores, rundir, state, trackers
from peftcore_train.batches import (
    TrainingBatches,
    lengths_of,
    loader,
    scoring_loader,
    scoring_order,
)
from peftcore_train.data import Row
from peftcore_train.errors import TrainingError
from peftcore_train.evaluation import evaluate
from peftcore_train.loop import Loop, Session
from peftcore_train.memory import peak_resident
from peftcore_train.profile import Profile
from peftcore_train.profile.findings import shown as listed
from peftcore_train.progress import Progress, shown
from peftcore_train.reading import encoded, examine
from peftcore_train.row_scores import RowScores
from peftcore_train.schema import Job, Split, TrainSection
from peftcore_train.signals import Stop
from peftcore_train.task import Features, Task

LoopMaker = Callable[[Session, state.Position], Loop]


@dataclass
class Prepared:
    """A recipe whose data has been read and whose model is loaded; nothing is attached yet."""

    job: Job
    task: Task
    model: nn.Module
    loaded: Loaded
    features: dict[Split, list[Features]]
    profile: Profile


def prepare(job: Job, progress: Progress | None = None) -> Prepared:
    """Read the data, load the model and encode every row: all that can fail before training.

    Args:
        job: the recipe.
        progress: where to say how it goes; nothing is said if not given.
    """
    progress = progress or Progress(quiet=True)
    with progress.doing(f"reading {job.recipe.data.source}"):
        examined = examine(job)
    examined.profile.raise_any()
    task, profile = examined.task, examined.profile
    set_seed(job.recipe.seed)
    with progress.doing(f"loading {job.recipe.backbone.source}"):
        model, loaded = building.load_model(job, task)

    def over(split: Split, rows: Sequence[Row]) -> Iterable[Row]:
        return progress.counted(rows, f"encoding {split}", len(rows))

    features = encoded(examined, loaded, job, over)
    profile.raise_any()
    return Prepared(job, task, model, loaded, features, profile)


def make_accelerator(section: TrainSection, folder: Path | None = None) -> Accelerator:
    """Return an accelerator with the settings of a recipe."""
    processes.join(section)
    return Accelerator(
        gradient_accumulation_steps=section.gradient_accumulation_steps,
        mixed_precision=section.mixed_precision,
        cpu=section.device == "cpu",
        log_with=list(section.trackers) or None,
        project_dir=None if folder is None else str(folder),
    )


def run(
    job: Job, folder: Path, stop: Stop, progress: Progress, loop: LoopMaker = Loop
) -> dict[str, Any]:
    """Train one set of methods in its run directory, which may hold a saved state.

    Args:
        job: the recipe.
        folder: the run directory.
        stop: whether the user asked to stop.
        progress: where to say how it goes.
        loop: makes the training loop, which a plugin may have one of its own for.

    Returns:
        What ``results.json`` holds.

    Raises:
        PeftcoreError: the data, the model or the methods do not fit, or training cannot go on.
    """
    started = time.monotonic()
    progress.log = folder / rundir.LOG
    progress.silent = not processes.is_main()
    outcome = _fit(job, folder, stop, progress, loop)
    # the trained model is in reference cycles; the fresh one shall have its memory
    gc.collect()
    results = _finish(job, folder, outcome, progress)
    results["time"]["total_seconds"] = round(time.monotonic() - started, 2)
    accelerator = outcome.accelerator
    if accelerator.is_main_process:
        rundir.write_json(folder / rundir.RESULTS, results)
    tracked = {f"test/{name}": value for name, value in results["test"].items()}
    accelerator.log(tracked, results["steps"])
    accelerator.end_training()
    _check_reloaded(results, accelerator)
    return results


@dataclass
class Outcome:
    """What is left of training once the model is gone."""

    task: Task
    features: dict[Split, list[Features]]
    accelerator: Accelerator
    position: state.Position
    best: state.Best
    metric: str
    stopped_by: str | None
    parameters: dict[str, float]


def _fit(job: Job, folder: Path, stop: Stop, progress: Progress, make_loop: LoopMaker) -> Outcome:
    prepared = prepare(job, progress)
    description = job.resolved(**prepared.task.learned())
    session = _session(prepared, folder, description, stop, progress)
    accelerator = session.accelerator
    if accelerator.is_main_process:
        rundir.write_config(folder, description)
        environment = rundir.environment(job.recipe.seed, str(accelerator.device))
        rundir.write_json(folder / rundir.ENVIRONMENT, environment)
        rundir.write_json(folder / rundir.PROFILE, prepared.profile.plain())
    for line in listed(prepared.profile.warnings):
        progress.say(f"warning: {line}")
    plan = session.adapter.plan
    progress.say(str(plan))
    if prepared.loaded.fresh:
        progress.say(f"not in the checkpoint, random: {', '.join(prepared.loaded.fresh)}")
    position = _restored(session)
    if job.recipe.train.trackers:
        trackers.begin(accelerator, job.recipe.name, folder, description, position.step)
    loop = make_loop(session, position)
    try:
        loop.run()
    except BaseException:
        trackers.end(accelerator)
        raise
    best = loop.position.best
    assert best is not None  # an epoch either has a score or raises
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    return Outcome(
        prepared.task, prepared.features, accelerator, loop.position, best, loop.metric,
        loop.finished(), counts(plan),
    )  # fmt: skip


def _restored(session: Session) -> state.Position:
    """Put back the newest state of the run directory, if it has one."""
    found = state.find_state(session.folder)
    if found is None:
        return state.Position()
    model = session.accelerator.unwrap_model(session.model)
    state.restore_state(found, model, session.adapter, session.optimizer, session.accelerator)
    position = state.read_position(found)
    session.progress.say(f"resumed at step {position.step} from {found.name}")
    return position


def counts(plan: Plan) -> dict[str, float]:
    """Return the numbers of parameters, and the share under the three conventions."""
    return {
        "trainable": plan.trainable,
        "head": plan.head,
        "base": plan.base,
        "percent_of_total": plan.percent("of_total"),
        "percent_of_base": plan.percent("of_base"),
        "percent_of_blocks": plan.percent("of_blocks"),
    }


def _session(
    prepared: Prepared, folder: Path, description: dict[str, Any], stop: Stop, progress: Progress
) -> Session:
    job, task = prepared.job, prepared.task
    section = job.recipe.train
    accelerator = make_accelerator(section, folder)
    set_seed(job.recipe.seed)
    rows = prepared.features["train"]
    with progress.doing("attaching"):
        adapter = building.attach(job, task, prepared.model, prepared.loaded, rows)
    if job.recipe.start is not None and state.find_state(folder) is None:
        progress.say(building.start(job, task, adapter))
    if section.gradient_checkpointing:
        _checkpoint_activations(prepared.loaded.model)
    batches = TrainingBatches(lengths_of(rows), section, job.recipe.seed)
    training = loader(task, rows, batches, section.num_workers)
    scoring = scoring_loader(task, prepared.features["validation"], section)
    model, training, scoring = accelerator.prepare(prepared.model, training, scoring)
    task.begin(model, rows)
    # after the model has moved to its device
    optimizer = accelerator.prepare(building.optimizer(adapter, section))
    return Session(
        section=section,
        task=task,
        adapter=adapter,
        model=model,
        optimizer=optimizer,
        loader=training,
        batches=batches,
        score=lambda between: evaluate(
            task,
            model,
            progress.counted(scoring, "validation", len(scoring), unit="batches", ends=False),
            accelerator,
            between,
        ),
        accelerator=accelerator,
        folder=folder,
        description=description,
        stop=stop,
        progress=progress,
    )


def _checkpoint_activations(model: nn.Module) -> None:
    enable = getattr(model, "gradient_checkpointing_enable", None)
    if enable is None:
        raise TrainingError(
            f"train.gradient_checkpointing: {type(model).__name__} cannot recompute activations."
            " Write train.gradient_checkpointing: false."
        )
    enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _finish(job: Job, folder: Path, outcome: Outcome, progress: Progress) -> dict[str, Any]:
    """Score the best adapter, read back from disk into a fresh backbone."""
    best, accelerator = outcome.best, outcome.accelerator
    with progress.doing(f"loading {job.recipe.backbone.source} anew"):
        model, _, loaded = reload(job, outcome.task, folder / rundir.ADAPTER)
    scorer = Scorer(outcome.task, model, accelerator, job.recipe.train, progress)
    again = scorer.score(outcome.features["validation"], "validation")
    test, rows = scorer.score_rows(outcome.features["test"], "test")
    if accelerator.is_main_process:
        row_scores.write(folder / rundir.ROWS, rows)
    equal = rundir.finite(again) == rundir.finite(best.scores)
    progress.say(
        f"adapter of epoch {best.epoch} read back from disk into a fresh {loaded.source}:"
        f" validation {'equal to the last digit' if equal else 'DIFFERENT'}; test {shown(test)}"
    )
    return {
        "name": job.recipe.name,
        "arm": job.arm,
        "task": job.task_type,
        "backbone": job.recipe.backbone.source,
        "methods": list(job.recipe.methods),
        "seed": job.recipe.seed,
        "rows": {split: len(rows) for split, rows in outcome.features.items()},
        "parameters": outcome.parameters,
        "metric": outcome.metric,
        "best": {"epoch": best.epoch, "step": best.step},
        "steps": outcome.position.step,
        "stopped_by": outcome.stopped_by,
        "validation": best.scores,
        "validation_reloaded": again,
        "reloaded_equal": equal,
        "test": test,
        "time": {
            "train_seconds": round(outcome.position.seconds, 2),
            "peak_bytes": peak_memory(accelerator),
        },
    }


def reload(job: Job, task: Task, adapter: Path) -> tuple[nn.Module, Adapter, Loaded]:
    """Load a fresh backbone and put a stored adapter on it.

    Raises:
        CheckpointError: the adapter is damaged or belongs to another base.
    """
    model, loaded = building.load_model(job, task)
    return model, peftcore.load(model, adapter), loaded


class Scorer:
    """Scores encoded rows with one model, as validation does."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        accelerator: Accelerator,
        section: TrainSection,
        progress: Progress,
    ):
        self.task = task
        self.progress = progress
        self.accelerator = accelerator
        self.section = section
        self.model = accelerator.prepare_model(model, evaluation_mode=True)

    def score(self, features: list[Features], split: str) -> dict[str, float]:
        """Return the metrics of the rows of a split."""
        return self.score_rows(features, split)[0]

    def score_rows(
        self, features: list[Features], split: str
    ) -> tuple[dict[str, float], RowScores]:
        """Return the metrics of the rows of a split, and what each of them was scored by."""
        batches = self.accelerator.prepare(scoring_loader(self.task, features, self.section))
        coming = self.progress.counted(batches, f"scoring {split}", len(batches), unit="batches")
        kept: list[RowScores] = []
        found = evaluate(self.task, self.model, coming, self.accelerator, keep=kept.append)
        return found, row_scores.in_order(kept, scoring_order(features))


def _check_reloaded(results: dict[str, Any], accelerator: Accelerator) -> None:
    if results["reloaded_equal"] or accelerator.device.type != "cpu":
        return  # some kernels of accelerators sum in an order of their own
    before, after = results["validation"], results["validation_reloaded"]
    name = next(
        name for name in before if rundir.finite(before[name]) != rundir.finite(after[name])
    )
    raise CheckpointError(
        "the adapter read back from disk scores differently from the one in memory: validation"
        f" {name} was {before[name]} and is {after[name]}."
    )


def peak_memory(accelerator: Accelerator) -> int:
    """Return the most bytes used so far: of the accelerator, or of this process."""
    if accelerator.device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return peak_resident()
