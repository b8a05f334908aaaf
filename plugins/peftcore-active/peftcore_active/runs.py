"""The many runs of an experiment: each is a run directory, made once and gone on with."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from peftcore import ConfigError, DataError, nearest
from peftcore_train import building, recipes, rundir
from peftcore_train.data import Row
from peftcore_train.errors import Interrupted
from peftcore_train.planning import rehearse
from peftcore_train.progress import Progress
from peftcore_train.recipes import Document, Origin, override, parted
from peftcore_train.running import run
from peftcore_train.schema import Job, anchored, job_of
from peftcore_train.signals import Stop, stop_on_signals
from peftcore_train.task import Task

M = TypeVar("M", bound=BaseModel)


def checked(
    document: Document, name: str, model: type[M], changes: Mapping[str, Any]
) -> tuple[Document, Document, M]:
    """Return a recipe with changes of a section, the recipe without it, and the section.

    Raises:
        ConfigError: the recipe has arms or seeds, or a field of the section does not fit.
    """
    for other in ("compare", "seeds"):
        if other in document.data:
            raise ConfigError(
                f"{document.file}: peftcore {name} takes methods, and seeds under {name}; leave"
                f" {other} out."
            )
    section = {**(document.data.get(name) or {}), **changes}
    document = anchored(Document(document.file, {**document.data, name: section}, document.origins))
    return document, *parted(document, name, model)


def rows_of(job: Job) -> tuple[Task, list[Row]]:
    """Return the task of a recipe, which knows its labels, and the training rows.

    Raises:
        DataError: the rows have no answers, or cannot be picked by their numbers.
    """
    task = building.make_task(job)
    data = job.recipe.data
    rows = task.read(data, "train")
    for name in task.columns().answers:
        if not any(name in row.values for row in rows):
            raise DataError(
                f"{rows[0].where}: no column {name!r}, which an experiment shows round by round."
                " Where rows have no labels yet, train on some that have, and choose among the"
                f" others with: peftcore query RUN {data.source}"
            )
    task.learn(rows)
    one = data.model_copy(update={"picked": {**data.picked, "train": (0,)}})
    if len(task.read(one, "train")) != 1:
        raise ConfigError(
            f"the task {job.task_type} reads its data in a way of its own, of which rows cannot be"
            " picked by their numbers (data.picked)."
        )
    return task, rows


def begin(document: Document, bare: Document, output: str | None) -> Path:
    """Do all that can fail before training, and write a recipe into a new directory.

    Args:
        document: the recipe.
        bare: the same without the section of the command.
        output: folder that the directory goes into.

    Raises:
        PeftcoreError: the data, the model or the methods do not fit.
    """
    job = job_of(bare)
    if "train" in job.recipe.data.picked:
        raise ConfigError(
            f"{document.file}: data.picked.train is what is chosen here; leave it out, or limit the"
            " rows with data.limits."
        )
    rehearse([job])
    folder = rundir.create(output or job.recipe.output, job.recipe.name)
    rundir.write_config(folder, document.data)
    return folder


def with_values(document: Document, values: Mapping[str, Any]) -> Document:
    """Return a recipe with other values, by keys as ``--set`` has them."""
    for key, value in values.items():
        document = override(document, key, value, Origin(key, 0))
    return document


def labels_of(task: Task) -> dict[str, Any]:
    """Return the labels as a value of the recipe: few rows need not have all of them."""
    found = task.learned().get("labels")
    return {} if found is None else {"task.labels": list(found)}


def metric_of(name: str, wanted: str | None, job: Job, task: Task) -> tuple[str, bool]:
    """Return the metric that a command tells, and whether greater is better.

    Args:
        name: of the command.
        wanted: the metric of its section.
        job: the recipe.
        task: its task, which has learned.

    Raises:
        ConfigError: the task has no such metric.
    """
    known = task.metric_names
    if wanted is not None and wanted not in known:
        raise ConfigError(
            f"{name}.metric: {wanted!r} is not a metric of this task.{nearest(wanted, known)} Its"
            f" metrics: {', '.join(known)}."
        )
    return task.chosen_metric(wanted or job.recipe.train.metric_for_best)


def picked_in(place: Path) -> list[int] | None:
    """Return the numbers of the training rows of a run directory; None where there is none yet."""
    if not (place / rundir.CONFIG).is_file():
        return None
    return list(recipes.read(place / rundir.CONFIG).data["data"]["picked"]["train"])


def trained(place: Path, document: Document, stop: Stop) -> dict[str, Any]:
    """Return the results of a run directory, which is made, gone on with, or read."""
    if (place / rundir.RESULTS).is_file():
        return dict(rundir.read_json(place / rundir.RESULTS))
    place.mkdir(parents=True, exist_ok=True)
    if not (place / rundir.CONFIG).is_file():
        rundir.write_config(place, document.data)
    with rundir.locked(place):
        return run(job_of(recipes.read(place / rundir.CONFIG)), place, stop, Progress(quiet=True))


@contextmanager
def going_on(folder: Path, command: str) -> Iterator[Stop]:
    """Keep a directory to this process; a stop says how to go on.

    Raises:
        Interrupted: the user asked to stop; what was done is kept.
    """
    try:
        with rundir.locked(folder), stop_on_signals() as stop:
            yield stop
    except Interrupted:
        raise Interrupted(
            f"interrupted; every round is saved. Go on with: peftcore {command} --resume {folder}"
        ) from None
