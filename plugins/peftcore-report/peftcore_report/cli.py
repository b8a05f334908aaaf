"""``peftcore report``."""

from pathlib import Path

import click

from peftcore import ConfigError


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="File to write; report.html in the directory by default. A picture .png goes beside it.",
)
def report(directory: Path, output: Path | None) -> None:
    """Write a page about DIRECTORY, a run or a comparison: one HTML file that needs no network."""
    output = output or directory / "report.html"
    if output.is_dir():
        raise ConfigError(f"--output {output} is a folder; name a file in it.")
    if directory.is_dir() and not output.parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {output.parent}; make it first.")

    from peftcore_report.page import write

    for file in write(directory, output):
        click.echo(file)
