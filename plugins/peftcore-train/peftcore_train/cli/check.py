"""``peftcore check``."""

from pathlib import Path

import click

from peftcore_train.cli.options import as_json, print_json, settings


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@settings
@as_json
def check(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check RECIPE and its data; `train --dry-run` looks at the model too."""
    from peftcore_train.running import read_data
    from peftcore_train.schema import load_jobs

    jobs = load_jobs(recipe, overrides)
    rows = {}
    for job in jobs:
        _, splits = read_data(job)
        rows[job.arm] = {split: len(found) for split, found in splits.items()}
    if as_json:
        print_json({"recipe": str(recipe), "ok": True, "rows": rows})
        return
    for arm, counts in rows.items():
        listed = ", ".join(f"{count} {split}" for split, count in counts.items())
        click.echo(f"{recipe}{f' {arm}' if arm else ''}: good; rows: {listed}")
