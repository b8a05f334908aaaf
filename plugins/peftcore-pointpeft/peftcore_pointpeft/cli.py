"""``peftcore point-bank``."""

from pathlib import Path

import click

from peftcore import ConfigError
from peftcore_train.cli.options import as_json, print_json, quiet, settings


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@settings
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="The file, best .safetensors; what the recipe's pointpeft names as bank by default.",
)
@as_json
@quiet
def point_bank(
    recipe: Path, overrides: tuple[str, ...], output: Path | None, as_json: bool, quiet: bool
) -> None:
    """Make the memory bank of Point-PEFT from the training clouds of RECIPE.

    The encoder is the recipe's backbone as it is loaded, without any adapter.
    """
    from peftcore_train.progress import Progress
    from peftcore_train.schema import load_jobs

    job = load_jobs(recipe, overrides)[0]
    named = [m.get("bank") for m in job.recipe.methods if isinstance(m, dict)]
    place = output or next((Path(bank) for bank in named if bank), None)
    if place is None:
        raise ConfigError(f"{recipe} names no bank; say where with --output FILE.")
    if not place.absolute().parent.is_dir():
        raise ConfigError(f"{place}: its folder does not exist.")

    from peftcore_pointpeft.making import make_bank

    found = make_bank(job, place, Progress(quiet=quiet))
    if as_json:
        print_json(found)
    else:
        click.echo(f"{found['file']}: {found['clouds']:,} clouds, sha256 {found['sha256']}")
