"""``peftcore private`` and ``peftcore federated``."""

from pathlib import Path
from typing import Any

import click

from peftcore_train.cli.options import as_json, check_resume, output, print_json, quiet, settings


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@settings
@click.option(
    "--epsilon",
    "epsilons",
    type=float,
    multiple=True,
    help="Budget of a run, in place of the recipe's; can be repeated.",
)
@output
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    help="Go on with the runs of this directory.",
)
@as_json
@quiet
def private(
    recipe: Path | None,
    overrides: tuple[str, ...],
    epsilons: tuple[float, ...],
    output: str | None,
    resume: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train RECIPE so that no training row has more say than a budget epsilon allows."""
    check_resume(resume, recipe, overrides, epsilons, output)

    from peftcore_private import runs
    from peftcore_train.fitting import print_fitting
    from peftcore_train.progress import Progress
    from peftcore_train.schema import read_recipe

    changes: dict[str, Any] = {"epsilon": list(epsilons)} if epsilons else {}
    progress = Progress(quiet=quiet)
    if resume is not None:
        folder, found = resume, runs.go_on(resume, progress)
    else:
        assert recipe is not None
        document = read_recipe(recipe, overrides)
        folder, found = runs.begin(document, changes, output, progress)
    if as_json:
        print_json({"directory": str(folder), **found})
    else:
        print_fitting(runs.columns_of(found))
        progress.say(f"adapters and results: {folder}")


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@settings
@output
@as_json
@quiet
def federated(
    recipe: Path,
    overrides: tuple[str, ...],
    output: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train the adapter of RECIPE on the rows of several clients, which send no rows."""
    from peftcore_private import federated
    from peftcore_train.fitting import print_fitting
    from peftcore_train.progress import Progress
    from peftcore_train.schema import read_recipe

    progress = Progress(quiet=quiet)
    folder, found = federated.begin(read_recipe(recipe, overrides), output, progress)
    if as_json:
        print_json({"directory": str(folder), **found})
    else:
        print_fitting(federated.columns_of(found))
        metric = found["metric"]
        progress.say(f"test {metric} {found['test'][metric]:.4f}; adapter: {folder / 'adapter'}")
