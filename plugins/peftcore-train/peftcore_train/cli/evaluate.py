"""``peftcore evaluate``."""

from pathlib import Path

import click

from peftcore_train.cli.options import as_json, print_json
from peftcore_train.schema import SPLITS, Split


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", help="Data to score instead of the run's own: a folder, file or source.")
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True)
@as_json
def evaluate(run: Path, data: str | None, split: Split, as_json: bool) -> None:
    """Score the adapter of RUN, a run directory or an adapter that training wrote."""
    from peftcore_train.report import print_scores
    from peftcore_train.rundir import finite
    from peftcore_train.trained import open_trained, score

    scores = {trained.job.arm: finite(score(trained, split, data)) for trained in open_trained(run)}
    if as_json:
        print_json(
            {"split": split, "arms": scores} if any(scores) else {"split": split, **scores[""]}
        )
    else:
        print_scores(scores, split)
