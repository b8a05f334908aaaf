"""``peftcore fairtune``."""

from pathlib import Path
from typing import Any

import click

from peftcore_train.cli.options import as_json, check_resume, output, print_json, quiet, settings


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@settings
@click.option("--trials", type=int, help="Masks that are tried; 20 by default.")
@output
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    help="Go on with the search of this directory, with more trials if so many are given.",
)
@as_json
@quiet
def fairtune(
    recipe: Path | None,
    overrides: tuple[str, ...],
    trials: int | None,
    output: str | None,
    resume: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Search for the mask of RECIPE with which groups of people fare best, and train with it."""
    check_resume(resume, recipe, overrides, output, besides="only --trials can be changed")

    from peftcore_fairtune import stages
    from peftcore_train.fitting import print_fitting
    from peftcore_train.progress import Progress
    from peftcore_train.schema import read_recipe

    changes: dict[str, Any] = {} if trials is None else {"trials": trials}
    progress = Progress(quiet=quiet)
    if resume is not None:
        folder, found = resume, stages.go_on(resume, changes, progress)
    else:
        assert recipe is not None
        document = read_recipe(recipe, overrides)
        folder, found = stages.begin(document, changes, output, progress)
    if as_json:
        print_json({"directory": str(folder), **found})
    else:
        print_fitting(stages.trial_columns(found))
        print_fitting(stages.test_columns(found))
        progress.say(f"recipe with the best mask: {folder / stages.BEST}")
