"""A recipe from its file to its results: one run, or several arms one after another."""

import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from peftcore import CheckpointError, ConfigError, DataError, PeftcoreError
from peftcore_train import going_on, recipes, rundir
from peftcore_train.arms import compares
from peftcore_train.errors import Interrupted, TrainingError
from peftcore_train.progress import Progress
from peftcore_train.recipes import Document
from peftcore_train.rundir import locked
from peftcore_train.schema import Job, anchored, jobs_of, read_recipe
from peftcore_train.signals import stop_on_signals

Results = dict[str, dict[str, Any]]
#: Key of the sentence that an arm ended with, in place of its results.
FAILED = "failed"


def start(
    recipe: str | Path, overrides: Sequence[str], output: str | None, progress: Progress
) -> tuple[Path, Results]:
    """Train what a recipe says in a new run directory.

    Returns:
        The run directory, and the results of each arm; one without a name if there are no arms.
    """
    return begin(read_recipe(recipe, overrides), output, progress)


def begin(document: Document, output: str | None, progress: Progress) -> tuple[Path, Results]:
    """Train what a recipe that has been read says; see :func:`start`."""
    document = anchored(document)
    _import(progress)
    from peftcore_train.building import check_start
    from peftcore_train.processes import join, on_main

    jobs = jobs_of(document)
    if asked := compares(document):
        raise ConfigError(
            f"{document.file}: {asked} is for a comparison: peftcore compare {document.file} trains"
            " all of it; peftcore train takes one setting and one seed."
        )
    for job in jobs:
        check_start(job)
    first = jobs[0].recipe
    join(first.train)

    def make() -> Path:
        folder = rundir.create(output or first.output, first.name)
        rundir.write_config(folder, document.data)
        return folder

    folder = on_main(make)
    try:
        return folder, _run(jobs, folder, progress)
    except (ConfigError, DataError):
        if not any(folder.rglob(rundir.METRICS)):
            shutil.rmtree(folder, ignore_errors=True)  # nothing was trained
        raise


def resume(folder: Path, progress: Progress, overrides: Sequence[str] = ()) -> tuple[Path, Results]:
    """Go on with a run that was stopped; what is finished is only read.

    Args:
        folder: the run directory.
        progress: where to say how it goes.
        overrides: ``train.epochs=5`` and the like, by which a finished run goes on, too.

    Raises:
        ConfigError: the folder is no run directory, or a change does not fit.
    """
    rundir.check_run(folder)
    if rundir.compared(folder):
        raise ConfigError(
            f"{folder} is a comparison: peftcore compare --resume {folder} goes on with it."
        )
    document = recipes.read(folder / rundir.CONFIG)
    if overrides:
        document = going_on.changed(document, folder, overrides)
    _import(progress)
    from peftcore_train.processes import is_main, join, on_main

    jobs = jobs_of(document)
    join(jobs[0].recipe.train)
    if overrides:
        with locked(folder) if is_main() else nullcontext():
            on_main(lambda: going_on.reopen(folder, document, [job.arm for job in jobs]))
    return folder, _run(jobs, folder, progress)


def _import(progress: Progress) -> None:
    """Import what trains, which takes seconds, and say so."""
    with progress.doing("importing torch"):
        import_module("peftcore_train.running")


def failures(results: Results) -> dict[str, str]:
    """Return the arms that failed, each with its sentence."""
    return {arm: result[FAILED] for arm, result in results.items() if FAILED in result}


def check_arms(folder: Path, results: Results) -> None:
    """Raise TrainingError where an arm failed."""
    if failed := failures(results):
        raise TrainingError(
            f"{len(failed)} of {len(results)} arms failed: {', '.join(failed)}. peftcore train"
            f" --resume {folder} tries them again."
        )


def jobs_in(folder: Path) -> list[tuple[Job, Path]]:
    """Return the recipes of a run directory, resolved, with the folder of each.

    Arms that failed are left out.

    Raises:
        ConfigError: the folder is no run directory, or an arm has not begun.
    """
    rundir.check_run(folder)
    if runs := rundir.compared(folder):
        raise ConfigError(f"{folder} is a comparison; name one of its runs, such as {runs[0]}.")
    found = []
    jobs = jobs_of(recipes.read(folder / rundir.CONFIG))
    ended = folder / rundir.RESULTS
    if len(jobs) > 1 and ended.is_file():
        failed = failures(rundir.read_json(ended).get("arms", {}))
        jobs = [job for job in jobs if job.arm not in failed]
    for job in jobs:
        place = folder / job.arm
        rundir.check_run(place)
        (own,) = jobs_of(recipes.read(place / rundir.CONFIG))
        found.append((replace(own, arm=job.arm), place))
    return found


def _run(jobs: Sequence[Job], folder: Path, progress: Progress) -> Results:
    from peftcore_train.planning import rehearse
    from peftcore_train.processes import is_main, join
    from peftcore_train.running import run

    started = time.monotonic()
    join(jobs[0].recipe.train)
    results: Results = {}
    with locked(folder) if is_main() else nullcontext(), stop_on_signals() as stop:
        left = [job for job in jobs if not (folder / job.arm / rundir.RESULTS).exists()]
        if left and len(jobs) > 1:
            with progress.doing("rehearsing all arms"):
                rehearse(left)
        for job in jobs:
            place = folder / job.arm
            place.mkdir(exist_ok=True)
            if job not in left:
                results[job.arm] = rundir.read_json(place / rundir.RESULTS)
                continue
            if job.arm:
                progress.log = None
                progress.say(f"--- {job.arm}")
            try:
                results[job.arm] = rundir.finite(run(job, place, stop, progress))
            except PeftcoreError as error:
                if not job.arm or isinstance(error, Interrupted | CheckpointError):
                    raise  # there are no others, or they would end the same way
                results[job.arm] = {FAILED: str(error)}
                progress.say(f"{job.arm} failed: {error}")
    if any(results) and is_main():
        summary = {"name": jobs[0].recipe.name, "arms": results}
        seconds = {"time": {"total_seconds": round(time.monotonic() - started, 2)}}
        rundir.write_json(folder / rundir.RESULTS, {**summary, **seconds})
    return results
