"""Runs at several budgets, and what they come to."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from peftcore import ConfigError
from peftcore_private.budget import Budget, budget_of
from peftcore_private.loop import PrivateLoop, check_section, guarantee
from peftcore_private.section import SECTION, PrivateSection
from peftcore_train import processes, recipes, rundir
from peftcore_train.errors import Interrupted
from peftcore_train.fitting import Column
from peftcore_train.loop import Loop
from peftcore_train.planning import rehearse
from peftcore_train.progress import Progress
from peftcore_train.recipes import Document, check_single, parted
from peftcore_train.report import number
from peftcore_train.running import LoopMaker, run
from peftcore_train.schema import Job, anchored, job_of
from peftcore_train.signals import stop_on_signals

FOUND = "private.json"
_BASELINE, _NOISE = "not-private", "noise"


def begin(
    document: Document, changes: Mapping[str, Any], output: str | None, progress: Progress
) -> tuple[Path, dict[str, Any]]:
    """Train a recipe at each of its budgets, in a new directory.

    Args:
        document: the recipe.
        changes: fields of its ``private`` section.
        output: folder that the directory goes into.
        progress: what to tell the user.

    Returns:
        The directory, and what ``private.json`` holds.

    Raises:
        PeftcoreError: the recipe, the data or the model does not fit; nothing is trained.
    """
    check_single(document, "private training")
    section = {**(document.data.get(SECTION) or {}), **changes}
    document = anchored(
        Document(document.file, {**document.data, SECTION: section}, document.origins)
    )
    bare, checked = parted(document, SECTION, PrivateSection)
    job = job_of(bare)
    check_section(job.recipe.train)
    _, numbers = rehearse([job])[""]
    for _, epsilon in _runs(checked):
        _budget(job, checked, epsilon, numbers["rows"]["train"])
    folder = rundir.create(output or job.recipe.output, job.recipe.name)
    rundir.write_config(folder, document.data)
    return folder, go_on(folder, progress)


def go_on(folder: Path, progress: Progress) -> dict[str, Any]:
    """Go on with the runs of a directory; what is finished is only read.

    Raises:
        ConfigError: the directory holds none.
        Interrupted: the user asked to stop; what was done is kept.
    """
    rundir.check_run(folder)
    document = recipes.read(folder / rundir.CONFIG)
    if SECTION not in document.data:
        raise ConfigError(
            f"{folder} holds no private training; name a directory that peftcore private wrote."
        )
    bare, section = parted(document, SECTION, PrivateSection)
    job = job_of(bare)
    runs = []
    with rundir.locked(folder), stop_on_signals() as stop:
        for name, epsilon in [*_runs(section), *[(_BASELINE, None)] * section.baseline]:
            place = folder / name
            if not (place / rundir.RESULTS).is_file():
                place.mkdir(exist_ok=True)
                progress.log = None
                progress.say(f"--- {name}")
                make = Loop if name == _BASELINE else _maker(section, epsilon)
                processes.join(job.recipe.train)
                try:
                    run(job, place, stop, progress, make)
                except Interrupted:
                    raise Interrupted(
                        "interrupted; the state is saved. Go on with: peftcore private --resume"
                        f" {folder}"
                    ) from None
            runs.append(_outcome(job, section, name, epsilon, place))
    found = {"name": job.recipe.name, "metric": runs[0]["metric"], "runs": runs}
    rundir.write_json(folder / FOUND, found)
    return found


def _runs(section: PrivateSection) -> list[tuple[str, float | None]]:
    """Return the name of each private run, and its budget."""
    return [(_NOISE if e is None else f"epsilon-{e:g}", e) for e in section.budgets]


def _maker(section: PrivateSection, epsilon: float | None) -> LoopMaker:
    return partial(PrivateLoop, section=section, epsilon=epsilon)


def _outcome(
    job: Job, section: PrivateSection, name: str, epsilon: float | None, place: Path
) -> dict[str, Any]:
    """Return what came of one run, with what it spent."""
    results = rundir.read_json(place / rundir.RESULTS)
    spent = None
    if name != _BASELINE:
        budget = _budget(job, section, epsilon, results["rows"]["train"])
        spent = guarantee(budget, results["steps"])
    kept = ("metric", "validation", "test", "steps", "time")
    return {"run": name, "private": spent, **{key: results[key] for key in kept}}


def _budget(job: Job, section: PrivateSection, epsilon: float | None, rows: int) -> Budget:
    train = job.recipe.train
    steps = train.epochs * -(-rows // train.batch_size)
    steps = min(steps, train.max_steps or steps)
    return budget_of(section, epsilon, rows=rows, batch_size=train.batch_size, steps=steps)


def columns_of(found: Mapping[str, Any]) -> list[Column]:
    """Return a line for each run."""
    runs, metric = found["runs"], found["metric"]

    def of_private(key: str) -> list[str]:
        return ["-" if r["private"] is None else f"{r['private'][key]:.3g}" for r in runs]

    return [
        Column("run", [r["run"] for r in runs]),
        Column("epsilon spent", of_private("epsilon")),
        Column("delta", of_private("delta")),
        Column("noise", of_private("noise_multiplier")),
        Column("steps", [str(r["steps"]) for r in runs]),
        Column(f"validation {metric}", [number(r["validation"].get(metric)) for r in runs]),
        Column(f"test {metric}", [number(r["test"].get(metric)) for r in runs]),
    ]
