"""Options that several commands have."""

import json
from pathlib import Path
from typing import Any

import click

from peftcore import ConfigError

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
quiet = click.option("--quiet", "-q", is_flag=True, help="Say nothing on stderr but errors.")
output = click.option(
    "--output", help="Folder that the new directory goes into; `runs` by default."
)
settings = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one value of the recipe, such as methods[0].rank=16. Can be repeated.",
)


def print_json(data: Any) -> None:
    """Print JSON on stdout."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def check_resume(
    resume: Path | None, recipe: Path | None, *others: Any, besides: str = "give nothing else"
) -> None:
    """Check that a command has a recipe, or a directory to go on with, and not both.

    Args:
        resume: the directory.
        recipe: the recipe.
        others: what is given besides and does not go with a directory.
        besides: what may be given with it.

    Raises:
        ConfigError: it has both or neither.
    """
    if resume is not None and (recipe or any(others)):
        raise ConfigError(f"--resume goes on with the recipe of its directory; {besides}.")
    if resume is None and recipe is None:
        raise ConfigError("name a recipe, or a directory with --resume.")
