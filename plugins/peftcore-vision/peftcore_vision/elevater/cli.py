"""``peftcore elevater``."""

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
    help="Go on with the benchmark of this directory; what was scored is not trained again.",
)
@as_json
@quiet
def elevater(
    recipe: Path | None,
    overrides: tuple[str, ...],
    output: str | None,
    resume: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Sweep, train and score RECIPE on the data sets of ELEVATER."""
    check_resume(resume, recipe, overrides, output)

    from peftcore_train.fitting import print_fitting
    from peftcore_train.progress import Progress
    from peftcore_train.schema import read_recipe
    from peftcore_vision.elevater import running

    progress = Progress(quiet=quiet)
    if resume is not None:
        folder, found = resume, running.go_on(resume, progress)
    else:
        assert recipe is not None
        folder, found = running.begin(read_recipe(recipe, overrides), output, progress)
    if as_json:
        print_json({"directory": str(folder), **found})
    else:
        print_fitting(running.columns_of(found))
        progress.say(
            f"trained parameters {found['parameters']:,.0f}, performance efficiency"
            f" {found['performance_efficiency']:.4f}"
        )
