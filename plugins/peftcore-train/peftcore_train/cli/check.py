"""``peftcore check``."""

from pathlib import Path

import click

from peftcore_train.cli.options import as_json, print_json, settings


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@settings
@as_json
def check(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check RECIPE and its data, and that its model fits; `train --dry-run` plans it too."""
    from peftcore_train.schema import load_jobs

    jobs = load_jobs(recipe, overrides)
    # what is wrong with the recipe alone is told before torch is there
    from peftcore_train.reading import check_model, read_data

    rows = {}
    for job in jobs:
        task, splits = read_data(job)
        check_model(job, task)
        rows[job.arm] = {split: len(found) for split, found in splits.items()}
    if as_json:
        print_json({"recipe": str(recipe), "ok": True, "rows": rows})
        return
    for arm, counts in rows.items():
        listed = ", ".join(f"{count} {split}" for split, count in counts.items())
        click.echo(f"{recipe}{f' {arm}' if arm else ''}: good; rows: {listed}")
