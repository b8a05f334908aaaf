"""``peftcore evaluate``."""

from pathlib import Path

import click

from peftcore_train.cli.options import as_json, print_json, quiet, settings
from peftcore_train.schema import SPLITS, Split


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", help="Data to score instead of the run's own: a folder, file or source.")
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True)
@settings
@as_json
@quiet
def evaluate(
    run: Path,
    data: str | None,
    split: Split,
    overrides: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Score the adapter of RUN, a run directory or an adapter that training wrote."""
    from peftcore_train.progress import Progress

    progress = Progress(quiet=quiet)
    progress.say(f"scoring {run}")

    with progress.doing("importing torch"):
        from peftcore_train.report import print_scores
        from peftcore_train.rundir import finite
        from peftcore_train.trained import open_trained, score

    scores = {
        trained.job.arm: finite(score(trained, split, data, progress))
        for trained in open_trained(run, overrides)
    }
    if as_json:
        print_json(
            {"split": split, "arms": scores} if any(scores) else {"split": split, **scores[""]}
        )
    else:
        print_scores(scores, split)
