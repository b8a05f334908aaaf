"""``peftcore report``."""

from pathlib import Path

import click


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="File to write; report.html in the directory by default. A picture .png goes beside it.",
)
def report(directory: Path, output: Path | None) -> None:
    """Write a page about DIRECTORY, a run or a comparison: one HTML file that needs no network."""
    from peftcore_report.api import report as write

    for file in write(directory, output=output).files:
        click.echo(file)
