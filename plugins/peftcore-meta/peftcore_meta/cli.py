"""``peftcore meta`` and ``peftcore compose``."""

from pathlib import Path

import click

from peftcore_train.cli.options import as_json, check_resume, output, print_json, quiet, settings


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@settings
@output
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    help="Go on with the starts and trials of this directory.",
)
@as_json
@quiet
def meta(
    recipe: Path | None,
    overrides: tuple[str, ...],
    output: str | None,
    resume: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Learn a start from the tasks of RECIPE, and try it on few rows of its own task."""
    check_resume(resume, recipe, overrides, output)

    from peftcore_meta import few_shot
    from peftcore_train.fitting import print_fitting
    from peftcore_train.progress import Progress
    from peftcore_train.schema import read_recipe

    progress = Progress(quiet=quiet)
    if resume is not None:
        folder, found = resume, few_shot.go_on(resume, progress)
    else:
        assert recipe is not None
        folder, found = few_shot.begin(read_recipe(recipe, overrides), output, progress)
    if as_json:
        print_json({"directory": str(folder), **found})
    else:
        print_fitting(few_shot.columns_of(found))
        progress.say(f"starts, for `from:` of a recipe: {folder / 'starts'}")


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@settings
@output
@as_json
@quiet
def compose(
    recipe: Path,
    overrides: tuple[str, ...],
    output: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Add the adapters of RECIPE up, and score the sum on its task."""
    from peftcore_meta import composing
    from peftcore_train.fitting import print_fitting
    from peftcore_train.progress import Progress
    from peftcore_train.schema import read_recipe

    progress = Progress(quiet=quiet)
    folder, found = composing.begin(read_recipe(recipe, overrides), output, progress)
    if as_json:
        print_json({"directory": str(folder), **found})
    else:
        print_fitting(composing.columns_of(found))
        progress.say(f"the sum, an adapter: {folder / 'adapter'}")
