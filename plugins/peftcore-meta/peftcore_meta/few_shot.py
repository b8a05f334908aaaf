"""Starts that are learned from several tasks, and trials of them on few rows of another one."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed

import peftcore
from peftcore import ConfigError, Plan
from peftcore_meta.learning import Learner
from peftcore_meta.section import META, MetaSection
from peftcore_train import building, recipes, rundir
from peftcore_train.errors import Interrupted
from peftcore_train.fitting import Column
from peftcore_train.loop import train_mode
from peftcore_train.planning import rehearse
from peftcore_train.progress import Progress
from peftcore_train.reading import encoded, examine
from peftcore_train.recipes import Document, Origin, check_single, override, parted
from peftcore_train.running import make_accelerator, prepare, run
from peftcore_train.schema import Job, anchored, job_of
from peftcore_train.signals import stop_on_signals
from peftcore_train.task import Features

FOUND = "meta.json"
_STARTS, _TRIALS, _SCRATCH = "starts", "trials", "scratch"


def begin(
    document: Document, output: str | None, progress: Progress
) -> tuple[Path, dict[str, Any]]:
    """Learn the starts of a recipe and try them, in a new directory.

    Returns:
        The directory, and what ``meta.json`` holds.

    Raises:
        PeftcoreError: the recipe, a task, the data or the model does not fit; nothing is trained.
    """
    if document.data.get(META) is None:
        raise ConfigError(f"{document.file}: name the tasks to learn from, as meta.tasks.")
    check_single(document, "meta")
    document = anchored(document)
    bare, section = parted(document, META, MetaSection)
    job = job_of(bare)
    if job.recipe.start is not None:
        raise ConfigError(f"{document.file}: from: the start is what is learned; leave it out.")
    _check_tasks(bare, section, job)
    plan, _ = rehearse([job_of(_trial(bare, section, 0, None))])[""]
    if set(section.starts) != {_SCRATCH}:
        _check_methods(plan)
    folder = rundir.create(output or job.recipe.output, job.recipe.name)
    rundir.write_config(folder, document.data)
    return folder, go_on(folder, progress)


def go_on(folder: Path, progress: Progress) -> dict[str, Any]:
    """Go on with a directory; starts and trials that are there are only read.

    Raises:
        ConfigError: it holds no such work.
        Interrupted: the user asked to stop; what was done is kept.
    """
    rundir.check_run(folder)
    document = recipes.read(folder / rundir.CONFIG)
    if document.data.get(META) is None:
        raise ConfigError(f"{folder} holds no meta-learning; name one that peftcore meta wrote.")
    bare, section = parted(document, META, MetaSection)
    trials = []
    with rundir.locked(folder), stop_on_signals() as stop:
        try:
            for start in section.starts:
                place = (
                    None if start == _SCRATCH else _learn(folder, bare, section, start, progress)
                )
                for draw in range(section.draws):
                    trial = folder / _TRIALS / f"{start}-{draw}"
                    if not (trial / rundir.RESULTS).is_file():
                        trial.mkdir(parents=True, exist_ok=True)
                        mine = job_of(_trial(bare, section, draw, place))
                        run(mine, trial, stop, Progress(quiet=True))
                    trials.append(_outcome(trial, start, draw))
                    progress.say(f"{start}, draw {draw}: {_shown(trials[-1])}")
        except Interrupted:
            raise Interrupted(
                f"interrupted; what is done is kept. Go on with: peftcore meta --resume {folder}"
            ) from None
    found = {"name": str(document.data["name"]), "metric": trials[0]["metric"], "trials": trials}
    rundir.write_json(folder / FOUND, found)
    return found


def _check_tasks(bare: Document, section: MetaSection, job: Job) -> None:
    """Check that every task can be read, and has the labels of the recipe's own."""
    own = _learned(job)
    for name in section.tasks:
        theirs = _learned(_task_job(bare, section, name))
        for field, value in own.items():
            if theirs.get(field) != value:
                raise ConfigError(
                    f"{META}.tasks.{name}: its {field} are {theirs.get(field)}, those of the recipe"
                    f" {value}; one head serves all tasks. Give them the same."
                )


def _learned(job: Job) -> dict[str, Any]:
    examined = examine(job)
    examined.profile.raise_any()
    return examined.task.learned()


def _task_job(bare: Document, section: MetaSection, name: str) -> Job:
    document = bare
    for key, value in section.tasks[name].items():
        document = override(document, key, value, Origin(f"{META}.tasks.{name}", 1 << 30))
    return job_of(anchored(document))


def _trial(bare: Document, section: MetaSection, draw: int, place: Path | None) -> Document:
    """Return the recipe of a trial: few rows, drawn anew, from a start."""
    origin = Origin(META, 1 << 30)
    changes = {"data.limits.train": section.shots, "data.seed": draw, "seed": draw}
    for key, value in changes.items():
        bare = override(bare, key, value, origin)
    return bare if place is None else override(bare, "from", str(place.resolve()), origin)


def _learn(
    folder: Path, bare: Document, section: MetaSection, start: str, progress: Progress
) -> Path:
    """Learn a start and write it as an adapter."""
    place = folder / _STARTS / start
    if (place / "adapter.json").is_file():
        return place
    job = job_of(bare)
    prepared = prepare(job, progress)
    task, loaded = prepared.task, prepared.loaded
    rows: dict[str, list[Features]] = {}
    for name in section.tasks:
        theirs = _task_job(bare, section, name)
        rows[name] = encoded(examine(theirs), loaded, theirs)["train"]
    set_seed(job.recipe.seed)
    accelerator = make_accelerator(job.recipe.train)
    adapter = building.attach(job, task, prepared.model, loaded, prepared.features["train"])
    model = accelerator.prepare_model(prepared.model)
    train_mode(model)
    learner = Learner(task, model, adapter, job.recipe.train, section, accelerator, job.recipe.seed)
    losses = getattr(learner, start)(rows, progress)
    tenth = max(1, len(losses) // 10)
    first, last = statistics.fmean(losses[:tenth]), statistics.fmean(losses[-tenth:])
    progress.say(f"{start}: loss {first:.4f} in the first tenth, {last:.4f} in the last")
    peftcore.save(adapter, place, extra={"recipe": job.resolved(**task.learned())})
    return place


def _check_methods(plan: Plan) -> None:
    """Refuse methods that act between the steps of one run, of which there are many here."""
    for hook in ("peftcore_before_run", "peftcore_after_step", "peftcore_after_run"):
        for method, _ in plan.methods.each(hook):
            raise ConfigError(
                f"{method.label} acts between the steps of a run, and a start is learned in many"
                f" short ones. Take another method, or {META}.starts: [{_SCRATCH}]."
            )


def _outcome(place: Path, start: str, draw: int) -> dict[str, Any]:
    results = rundir.read_json(place / rundir.RESULTS)
    kept = ("metric", "validation", "test", "best")
    return {"start": start, "draw": draw, **{key: results[key] for key in kept}}


def _shown(trial: Mapping[str, Any]) -> str:
    return f"test {trial['metric']} {trial['test'][trial['metric']]:.4f}"


def columns_of(found: Mapping[str, Any]) -> list[Column]:
    """Return a line for each start: the mean over draws, and each draw."""
    metric = found["metric"]
    starts: dict[str, list[float]] = {}
    for trial in found["trials"]:
        starts.setdefault(trial["start"], []).append(trial["test"][metric])
    spread = [f"{statistics.stdev(v):.4f}" if len(v) > 1 else "-" for v in starts.values()]
    return [
        Column("start", list(starts)),
        Column(f"test {metric}, mean", [f"{statistics.fmean(v):.4f}" for v in starts.values()]),
        Column("standard deviation", spread),
        Column("draws", [" ".join(f"{x:.3f}" for x in v) for v in starts.values()]),
    ]
