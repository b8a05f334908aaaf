"""``peftcore train``."""

from pathlib import Path

import click

from peftcore_train.cli.options import as_json, check_resume, print_json, quiet, settings
from peftcore_train.progress import Progress


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@settings
@click.option("--output", help="Folder that the run directory goes into; `runs` by default.")
@click.option(
    "--resume", type=click.Path(path_type=Path), help="Go on with the run of this directory."
)
@click.option("--dry-run", is_flag=True, help="Show what would be trained, and train nothing.")
@as_json
@quiet
def train(
    recipe: Path | None,
    overrides: tuple[str, ...],
    output: str | None,
    resume: Path | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train what RECIPE says, in a new run directory."""
    check_resume(resume, recipe, output, dry_run, besides="only --set goes with it")

    # nothing so far needs torch: the first line is there at once
    progress = Progress(quiet=quiet)
    if dry_run:
        assert recipe is not None
        progress.say(f"rehearsing {recipe}")
        _dry_run(recipe, overrides, progress, as_json)
        return
    progress.say(f"training {recipe}" if resume is None else f"going on with {resume}")

    from peftcore_train import experiment
    from peftcore_train.report import print_results

    if resume is not None:
        folder, results = experiment.resume(resume, progress, overrides)
    else:
        assert recipe is not None
        folder, results = experiment.start(recipe, overrides, output, progress)
    progress.log = None
    if progress.silent:
        return
    if as_json:
        print_json({"run": str(folder), "arms": results} if any(results) else results[""])
    else:
        print_results(results)
        progress.say(f"run directory: {folder}")
    experiment.check_arms(folder, results)


def _dry_run(recipe: Path, overrides: tuple[str, ...], progress: Progress, as_json: bool) -> None:
    from peftcore import print_plans
    from peftcore_train.planning import rehearse
    from peftcore_train.schema import load_jobs

    with progress.doing("reading and planning"):
        found = rehearse(load_jobs(recipe, overrides))
    print_plans(
        {arm: plan for arm, (plan, _) in found.items()},
        besides={arm: numbers for arm, (_, numbers) in found.items()},
        as_json=as_json,
    )
