"""``peftcore active``, ``peftcore query`` and ``peftcore curriculum``."""

from pathlib import Path
from typing import Any

import click

from peftcore import ConfigError
from peftcore_active.section import STRATEGIES
from peftcore_train.cli.options import as_json, check_resume, output, print_json, quiet, settings

_resume = click.option(
    "--resume",
    type=click.Path(path_type=Path),
    help="Go on with the experiment of this directory.",
)


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@settings
@click.option("--rounds", type=int, help="Rounds after the first training; 5 by default.")
@output
@_resume
@as_json
@quiet
def active(
    recipe: Path | None,
    overrides: tuple[str, ...],
    rounds: int | None,
    output: str | None,
    resume: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Label the training rows of RECIPE round by round, by several strategies and at random.

    The labels are there and are hidden: of each round only what was chosen is trained on.
    """
    check_resume(resume, recipe, overrides, output, besides="only --rounds can be changed")
    from peftcore_active import curves, labelling
    from peftcore_train.fitting import print_fitting
    from peftcore_train.progress import Progress
    from peftcore_train.schema import read_recipe

    changes: dict[str, Any] = {} if rounds is None else {"rounds": rounds}
    progress = Progress(quiet=quiet)
    if resume is not None:
        folder, found = resume, labelling.go_on(resume, changes, progress)
    else:
        assert recipe is not None
        document = read_recipe(recipe, overrides)
        folder, found = labelling.begin(document, changes, output, progress)
    if as_json:
        print_json({"directory": str(folder), **found})
    else:
        print_fitting(curves.columns(found))
        progress.say(f"picture: {folder / labelling.PICTURE}")


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@settings
@output
@_resume
@as_json
@quiet
def curriculum(
    recipe: Path | None,
    overrides: tuple[str, ...],
    output: str | None,
    resume: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train RECIPE on easy rows first, on hard ones first, and in any order, for as many steps."""
    check_resume(resume, recipe, overrides, output)
    from peftcore_active import ordering
    from peftcore_train.fitting import print_fitting
    from peftcore_train.progress import Progress
    from peftcore_train.schema import read_recipe

    progress = Progress(quiet=quiet)
    if resume is not None:
        folder, found = resume, ordering.go_on(resume, progress)
    else:
        assert recipe is not None
        document = read_recipe(recipe, overrides)
        folder, found = ordering.begin(document, {}, output, progress)
    if as_json:
        print_json({"directory": str(folder), **found})
    else:
        print_fitting(ordering.columns(found))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("pool", type=click.Path(path_type=Path))
@click.option(
    "--strategy",
    type=click.Choice(STRATEGIES),
    default="margin",
    show_default=True,
    help="What chooses.",
)
@click.option("--count", default=50, show_default=True, help="Rows that are chosen.")
@click.option("--passes", default=8, show_default=True, help="Passes with dropout, for bald.")
@click.option("--seed", default=0, show_default=True, help="Seed of that dropout.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="New file, .jsonl, .csv, .tsv or .parquet, of the rows that were chosen.",
)
@quiet
def query(
    run: Path,
    pool: Path,
    strategy: str,
    count: int,
    passes: int,
    seed: int,
    output: Path,
    quiet: bool,
) -> None:
    """Choose the rows of POOL, which need no labels, from which RUN would learn most.

    The rows are written as they are, the one to label first on top, with its place in the file and
    what the strategy says of it.
    """
    from peftcore_train.outputs import check_output

    check_output(output, resume=False)
    if count < 1 or passes < 2:
        raise ConfigError("--count is 1 at least, --passes 2.")

    from peftcore_active.querying import query as choose
    from peftcore_train.progress import Progress

    choose(run, pool, strategy, count, passes, seed, output, Progress(quiet=quiet))
