"""The data of a recipe, read and checked, and what its model is, short of building it."""

from peftcore_train import building
from peftcore_train.data import Row
from peftcore_train.schema import SPLITS, Job, Split
from peftcore_train.task import Task

Rows = dict[Split, list[Row]]


def read_data(job: Job) -> tuple[Task, Rows]:
    """Read and check every split, and let the task learn its labels.

    Raises:
        DataError: a split is missing or damaged, or a row does not fit the task.
        ConfigError: the task has no such metric.
    """
    if job.recipe.train.trackers:
        # a second of imports, for what few recipes have
        from peftcore_train import trackers

        trackers.check(job.recipe.train.trackers)
    task = building.make_task(job)
    rows: Rows = {split: task.read(job.recipe.data, split) for split in SPLITS}
    task.learn(rows["train"])
    task.chosen_metric(job.recipe.train.metric_for_best)
    for split in SPLITS:
        task.check(rows[split])
    return task, rows


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
