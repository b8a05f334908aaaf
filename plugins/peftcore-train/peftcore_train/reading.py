"""The data of a recipe, read and looked at, and what its model is, short of building it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from peftcore import ConfigError, DataError, Loaded
from peftcore_train import building
from peftcore_train.data import Columns, Row
from peftcore_train.profile import Finding, Profile
from peftcore_train.profile.findings import of_error, shown
from peftcore_train.profile.lengths import Measure
from peftcore_train.profile.profile import profiled
from peftcore_train.progress import going_over
from peftcore_train.schema import SPLITS, Job, Split
from peftcore_train.task import Features, Task
from peftcore_train.text import most_tokens

Rows = dict[Split, list[Row]]


@dataclass
class Examined:
    """Data that was looked at.

    Attributes:
        task: the task, which has learned its labels where the training rows tell them.
        rows: of each split, as far as they can be read.
        profile: what they hold, and all that is wrong with them.
        learned: whether the task knows what its model depends on.
    """

    task: Task
    rows: Rows
    profile: Profile
    learned: bool


def read_data(job: Job) -> tuple[Task, Rows]:
    """Read and check every split, and let the task learn its labels.

    Raises:
        DataError: all that is wrong with the data, a line each.
        ConfigError: the task has no such metric.
    """
    examined = examine(job)
    examined.profile.raise_any()
    return examined.task, examined.rows


def examine(job: Job) -> Examined:
    """Read every split, let the task learn from it, and find all that is wrong.

    Raises:
        ConfigError: the task has no such metric, or no such labels can be.
    """
    if job.recipe.train.trackers:
        # a second of imports, for what few recipes have
        from peftcore_train import trackers

        trackers.check(job.recipe.train.trackers)
    task = building.make_task(job)
    found: list[Finding] = []
    rows = {split: _read(task, job, split, found) for split in SPLITS}
    whole = [split for split in SPLITS if not _lacking(rows[split], task.columns(), found)]
    broken = _learned(job, task, rows["train"], found) if "train" in whole else True
    if not broken:
        task.chosen_metric(job.recipe.train.metric_for_best)
        _check_plateau(job, task)
    for split in whole:
        if not broken:
            found += _of_rows(task, rows[split])
        elif split != "train":
            found += [one for row in rows[split] for one in _probed(job, row)]
    profile = profiled(job.recipe.data, rows, task.columns(), found)
    return Examined(task, rows, profile, learned=not broken)


def _check_plateau(job: Job, task: Task) -> None:
    if job.recipe.train.lr_scheduler == "plateau" and "loss" not in task.metric_names:
        raise ConfigError(
            f"train.lr_scheduler: plateau follows the validation loss, which {job.task_type} does"
            " not score so. Take another, such as linear."
        )


def profiles_of(jobs: Sequence[Job]) -> dict[str, Profile]:
    """Return the profile of the data of each arm; arms with the same data and model share one.

    The tokenizer is read, and of the model what it is, but no weights.

    Raises:
        ConfigError: a model does not fit its task.
    """
    out: dict[str, Profile] = {}
    known: dict[str, Profile] = {}
    for job in jobs:
        recipe = job.recipe
        metric = recipe.train.metric_for_best
        key = repr((recipe.backbone, recipe.data, job.task, recipe.train.trackers, metric))
        if key not in known:
            known[key] = _profile_of(job)
        out[job.arm] = known[key]
    return out


def _profile_of(job: Job) -> Profile:
    examined = examine(job)
    if not examined.learned:
        return examined.profile
    try:
        check_model(job, examined.task)
        if (loaded := building.outline(job, examined.task)) is not None:
            encoded(examined, loaded, job)
    except ConfigError as error:
        raise type(error)([*error.problems, *shown(examined.profile.errors)]) from error
    return examined.profile


def encoded(
    examined: Examined,
    loaded: Loaded,
    job: Job,
    over: Callable[[Split, Sequence[Row]], Iterable[Row]] = lambda split, rows: going_over(
        rows, f"encoding {split}"
    ),
) -> dict[Split, list[Features]]:
    """Encode every row, and let the profile know the lengths; what does not fit is in it then.

    Args:
        examined: the data.
        loaded: the backbone, with its tokenizer.
        job: the recipe.
        over: goes over the rows of a split, such as with a bar.
    """
    task, found = examined.task, []
    limit = most_tokens(getattr(task.config, "max_length", None), loaded)
    measure = Measure(getattr(loaded.tokenizer, "unk_token_id", None), limit, task.length_unit)
    refused = {one.where for one in examined.profile.errors if one.kind == "row"}
    out: dict[Split, list[Features]] = {}
    for split, rows in examined.rows.items():
        out[split] = []
        for row in over(split, rows):
            if row.where in refused:
                continue
            try:
                features = task.encode(row, loaded)
            except DataError as error:
                found.append(of_error("row", error))
            else:
                out[split].append(features)
                measure.add(split, row, features)
    examined.profile.measured(measure.result(), found, job.recipe.data)
    return out


def _read(task: Task, job: Job, split: Split, found: list[Finding]) -> list[Row]:
    problems: list[DataError] = []
    rows: list[Row] = []
    try:
        rows = task.read(job.recipe.data, split, problems)
    except DataError as error:
        problems.append(error)
    found += (of_error("unreadable", problem) for problem in problems)
    return rows


def _lacking(rows: Sequence[Row], columns: Columns, found: list[Finding]) -> bool:
    """Tell whether there are no rows, or all of them lack a column, which is found once."""
    lacking = False
    for name in (*columns.inputs, *columns.answers):
        if rows and not any(name in row.values for row in rows):
            lacking = True
            try:
                rows[0].column(name)
            except DataError as error:
                found.append(of_error("column", error))
    return lacking or not rows


def _learned(job: Job, task: Task, rows: Sequence[Row], found: list[Finding]) -> bool:
    """Let the task learn; tell whether it could not, and find the rows that it refuses."""
    try:
        task.learn(rows)
    except DataError as error:
        refused = [one for row in rows for one in _probed(job, row)]
        found += refused or [of_error("row", error)]
        return True
    return False


def _probed(job: Job, row: Row) -> list[Finding]:
    """Return what a task that knows no other row says of a row by its own place."""
    task = building.make_task(job)
    try:
        task.learn([row])
        task.check([row])
    except DataError as error:
        one = of_error("row", error)
        return [one] if one.where == row.where else []
    except ConfigError:
        return []  # such as a label that this row does not have
    return []


def _of_rows(task: Task, rows: Sequence[Row]) -> list[Finding]:
    try:
        task.check(rows)
    except DataError as first:
        found = []
        for row in going_over(rows, "looking for all that is wrong"):
            try:
                task.check([row])
            except DataError as error:
                found.append(of_error("row", error))
        return found or [of_error("row", first)]
    return []


def check_model(job: Job, task: Task) -> None:
    """Check the recipe's backbone as far as its configuration tells; no weights are read.

    Args:
        job: the recipe.
        task: its task, which has learned what its head depends on.

    Raises:
        ConfigError: the source does not exist, has no such head, or cannot do what the task asks.
        UnknownName: no installed plugin provides what the recipe names.
    """
    section = job.recipe.backbone
    options = {**task.load_options(), **section.options}
    knows = building.backbone(section, on_meta=True)
    config = knows.configuration(section.source, head=task.head, **options)
    if config is not None:
        task.check_model(config)


def greater_is_better(job: Job) -> bool:
    """Tell whether a greater value of the metric that chooses the best epoch is better."""
    return building.make_task(job).chosen_metric(job.recipe.train.metric_for_best)[1]
