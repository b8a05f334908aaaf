"""``peftcore tune``."""

from pathlib import Path
from typing import Any

import click

from peftcore import ConfigError
from peftcore_train.cli.options import as_json, check_resume, output, print_json, quiet, settings


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@settings
@click.option(
    "--param",
    "parameters",
    multiple=True,
    metavar="KEY[=RANGE]",
    help="Search this field, such as methods[0].rank=4..64:log, or a list [4, 8]; without a range"
    " by its schema. Can be repeated; default: all fields of the methods and the learning rate.",
)
@click.option("--trials", type=int, help="Trials of the whole search; 20 by default.")
@click.option("--minutes", type=float, help="Minutes after which no further trial begins.")
@output
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    help="Go on with the search of this directory, with another budget if one is given.",
)
@click.option("--storage", help="Database that workers on several machines share, by its address.")
@click.option("--jobs", "-j", default=1, show_default=True, help="Workers at a time.")
@click.option(
    "--executor",
    help="Where workers run; `in-process` for one, `processes` for several, or what a plugin"
    " brings.",
)
@as_json
@quiet
def tune(
    recipe: Path | None,
    overrides: tuple[str, ...],
    parameters: tuple[str, ...],
    trials: int | None,
    minutes: float | None,
    output: str | None,
    resume: Path | None,
    storage: str | None,
    jobs: int,
    executor: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Search for the settings of RECIPE that give the best validation score."""
    check_resume(
        resume,
        recipe,
        overrides,
        output,
        parameters,
        storage,
        besides="only the budget can be changed",
    )

    from peftcore_train.fitting import print_fitting
    from peftcore_train.progress import Progress
    from peftcore_train.schema import read_recipe
    from peftcore_tune import tuning

    changes: dict[str, Any] = {"trials": trials, "minutes": minutes, "storage": storage}
    changes = {name: value for name, value in changes.items() if value is not None}
    if parameters:
        changes["parameters"] = dict(map(_parameter, parameters))
    where = executor or ("in-process" if jobs == 1 else "processes")
    progress = Progress(quiet=quiet)
    if resume is not None:
        folder, found = tuning.resume(resume, changes, where, jobs, progress)
    else:
        assert recipe is not None
        document = read_recipe(recipe, overrides)
        folder, found = tuning.begin(document, changes, output, where, jobs, progress)
    if as_json:
        print_json({"directory": str(folder), **found})
    else:
        print_fitting(tuning.columns_of(found))
        if found["importance"]:
            print_fitting(tuning.importance_columns(found))
        progress.say(f"best recipe: {folder / tuning.BEST}")
    tuning.check(folder, found)


def _parameter(text: str) -> tuple[str, Any]:
    """Return a key, and its range or list, of an option."""
    key, sign, value = text.partition("=")
    if not sign:
        return key, None
    if not value.strip().startswith("["):
        return key, value
    import yaml

    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--param {text}: not readable as a list.") from None
