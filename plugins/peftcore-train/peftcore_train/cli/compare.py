"""``peftcore compare``."""

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
    help="Go on with the comparison of this directory; what failed is tried again.",
)
@click.option(
    "--jobs", "-j", default=1, show_default=True, help="Runs at a time, as far as memory allows."
)
@click.option(
    "--executor",
    default="processes",
    show_default=True,
    help="Where they run: `processes`, `in-process`, or what a plugin brings, such as `ray`.",
)
@as_json
@quiet
def compare(
    recipe: Path | None,
    overrides: tuple[str, ...],
    output: str | None,
    resume: Path | None,
    jobs: int,
    executor: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train the arms of RECIPE with every setting and seed, and compare them."""
    check_resume(resume, recipe, overrides, output)

    from peftcore_train.comparing import comparison
    from peftcore_train.comparing.table import columns_of, notes
    from peftcore_train.fitting import print_fitting
    from peftcore_train.progress import Progress

    progress = Progress(quiet=quiet)
    options = comparison.Options(executor, jobs)
    if resume is not None:
        folder, found = comparison.resume(resume, options, progress)
    else:
        assert recipe is not None
        folder, found = comparison.start(recipe, overrides, output, options, progress)
    if as_json:
        print_json({"directory": str(folder), **found})
    else:
        print_fitting(columns_of(found))
        for note in notes(found):
            click.echo(note, err=True)
        progress.say(f"directory: {folder}")
    comparison.check(folder, found)
