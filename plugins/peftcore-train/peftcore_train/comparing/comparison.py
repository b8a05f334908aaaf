"""A comparison from its recipe to its table: runs that do not wait for each other."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from peftcore import ConfigError, installed
from peftcore_train import recipes, rundir
from peftcore_train.comparing import work
from peftcore_train.comparing.cells import Cell, cells_of, write_recipes
from peftcore_train.comparing.choosing import chosen
from peftcore_train.comparing.executors import failure
from peftcore_train.errors import Interrupted, TrainingError
from peftcore_train.experiment import FAILED
from peftcore_train.progress import Progress
from peftcore_train.recipes import Document
from peftcore_train.schema import anchored, read_recipe
from peftcore_train.signals import stop_on_signals

COMPARISON = "comparison.json"


@dataclass(frozen=True)
class Options:
    """How a comparison is computed.

    Attributes:
        executor: name of the executor.
        jobs: runs at a time.
    """

    executor: str = "processes"
    jobs: int = 1


def start(
    recipe: str | Path,
    overrides: Sequence[str],
    output: str | None,
    options: Options,
    progress: Progress,
) -> tuple[Path, dict[str, Any]]:
    """Train all that a recipe compares, in a new directory.

    Returns:
        The directory, and what ``comparison.json`` holds.

    Raises:
        PeftcoreError: the recipe, the data or a model does not fit; nothing is trained then.
    """
    return begin(read_recipe(recipe, overrides), output, options, progress)


def begin(
    document: Document, output: str | None, options: Options, progress: Progress
) -> tuple[Path, dict[str, Any]]:
    """Train all that a recipe that has been read compares; see :func:`start`."""
    document = anchored(document)
    cells = cells_of(document)
    make = _executor(options)
    _rehearse(cells, progress)
    first = cells[0].job.recipe
    folder = rundir.create(output or first.output, first.name)
    rundir.write_config(folder, document.data)
    return folder, _run(folder, cells, make, options, progress)


def resume(folder: Path, options: Options, progress: Progress) -> tuple[Path, dict[str, Any]]:
    """Go on with a comparison; what is finished is only read, what failed is tried again.

    Raises:
        ConfigError: the folder holds none.
    """
    rundir.check_run(folder)
    if (folder / rundir.METRICS).is_file() or any(folder.glob(f"*/{rundir.METRICS}")):
        raise ConfigError(f"{folder} is no comparison: peftcore train --resume {folder}")
    cells = cells_of(recipes.read(folder / rundir.CONFIG))
    make = _executor(options)
    left = [cell for cell in cells if not (folder / cell.place / rundir.RESULTS).is_file()]
    _rehearse(left, progress)
    return folder, _run(folder, cells, make, options, progress)


def check(folder: Path, found: dict[str, Any]) -> None:
    """Raise TrainingError where a run failed."""
    failed = found["failed"]
    if failed:
        names = "; ".join(list(failed)[:5]) + ("; ..." if len(failed) > 5 else "")
        raise TrainingError(
            f"{len(failed)} of {found['runs'] + len(failed)} runs failed: {names}. peftcore compare"
            f" --resume {folder} tries them again."
        )


def _executor(options: Options) -> Callable[[int], Executor]:
    if options.jobs < 1:
        raise ConfigError(f"--jobs {options.jobs}: at least one run at a time.")
    installed().find("executors", options.executor)
    make: Callable[[int], Executor] = installed().resolve("executors", options.executor, "executor")
    return make


def _rehearse(cells: Sequence[Cell], progress: Progress) -> None:
    """Plan every arm and setting, so that a mistake costs no time."""
    from peftcore_train.planning import rehearse

    jobs = {cell.shown.rpartition(",")[0]: cell.job for cell in cells}
    with progress.doing("rehearsing"):
        rehearse([replace(job, arm=name) for name, job in jobs.items()])


def _run(
    folder: Path,
    cells: Sequence[Cell],
    make: Callable[[int], Executor],
    options: Options,
    progress: Progress,
) -> dict[str, Any]:
    progress.log = folder / rundir.LOG
    with rundir.locked(folder), stop_on_signals():
        write_recipes(folder, cells)
        runs = Runs(folder, cells, progress)
        executor = make(options.jobs)
        try:
            runs.all(executor, options.jobs)
        except (Interrupted, KeyboardInterrupt):
            executor.shutdown(wait=True, cancel_futures=True)
            raise Interrupted(
                f"interrupted; every run is saved. Go on with: peftcore compare --resume {folder}"
            ) from None
        executor.shutdown()
        # seconds of imports, which only the end needs
        from peftcore_train.comparing.summary import summary

        found = summary(folder, cells, runs.failed)
        rundir.write_json(folder / COMPARISON, found)
    progress.log = None
    return rundir.finite(found)


@dataclass
class Runs:
    """The runs of a comparison, those of the settings of an arm before those of its other seeds.

    Attributes:
        folder: directory of the comparison.
        cells: all runs that there may be.
        progress: what to tell the user.
        failed: what went wrong, by the name of the run.
    """

    folder: Path
    cells: Sequence[Cell]
    progress: Progress
    failed: dict[str, str] = field(default_factory=dict)

    def all(self, executor: Executor, jobs: int) -> None:
        """Have all of them trained, at most so many at a time."""
        queue = deque(cell for cell in self.cells if self._first(cell))
        self.total = len({cell.place for cell in self.cells if self._counts(cell)})
        self.done, self.started = 0, time.monotonic()
        waiting: dict[Future[Any], Cell] = {}
        while queue or waiting:
            while queue and len(waiting) < jobs:
                cell = queue.popleft()
                if self._finished(cell):
                    queue.extend(self._after(cell))
                    self.done += 1
                    continue
                waiting[executor.submit(work.train, str(self.folder / cell.place))] = cell
            if not waiting:
                continue
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                cell = waiting.pop(future)
                self._end(cell, future)
                queue.extend(self._after(cell))

    def _first(self, cell: Cell) -> bool:
        """Tell whether a run waits for no other: settings are tried with the first seed."""
        return not cell.number or cell.seed == self.cells[0].seed

    def _counts(self, cell: Cell) -> bool:
        return cell.number <= 1 or self._first(cell)

    def _finished(self, cell: Cell) -> bool:
        return (self.folder / cell.place / rundir.RESULTS).is_file()

    def _after(self, cell: Cell) -> list[Cell]:
        """Return the other seeds of an arm once all of its settings have ended."""
        mine = [other for other in self.cells if other.arm == cell.arm]
        tried = [other for other in mine if self._first(other)]
        if not cell.number or not self._first(cell):
            return []
        if not all(self._finished(other) or other.shown in self.failed for other in tried):
            return []
        number = chosen(self.folder, tried)
        return [o for o in mine if o.number == number and not self._first(o)]

    def _end(self, cell: Cell, future: Future[Any]) -> None:
        self.done += 1
        try:
            sentence = future.result().get(FAILED, "")
        except Exception as error:
            sentence = failure(error)
        if not sentence and not self._finished(cell):
            sentence = f"no {rundir.RESULTS} came back; workers need this folder on their disks"
        if sentence:
            self.failed[cell.shown] = sentence
            self.progress.say(f"{cell.shown} failed: {sentence}")
            return
        results = rundir.read_json(self.folder / cell.place / rundir.RESULTS)
        score = results["validation"][results["metric"]]
        seconds = time.monotonic() - self.started
        self.progress.say(
            f"{self.done}/{self.total} {cell.shown}: validation {results['metric']}"
            f" {score:.4f}, {results['time']['total_seconds']:.0f} s; {seconds:.0f} s in all"
        )
