"""``peftcore clouds``."""

from pathlib import Path

import click

from peftcore import ConfigError
from peftcore_train.cli.options import as_json, print_json, quiet


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--points",
    default=8192,
    show_default=True,
    type=click.IntRange(min=1),
    help="Points to keep of each cloud, those farthest from each other, in that order.",
)
@click.option("--file", "files", multiple=True, metavar="SPLIT=FILE", help="As data.files.")
@as_json
@quiet
def clouds(
    source: Path, output: Path, points: int, files: tuple[str, ...], as_json: bool, quiet: bool
) -> None:
    """Write the clouds of SOURCE into OUTPUT/train.h5 and test.h5.

    SOURCE is what a recipe's data.source may be. Recipes read the files as any other source; with
    task.sampling: first the farthest points cost nothing more.
    """
    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"{output} is there already; name a folder that is not.")
    if wrong := [text for text in files if text.partition("=")[0] not in ("train", "test")]:
        raise ConfigError(f"--file {wrong[0]}: write train=FILE or test=FILE.")

    from peftcore_pointcloud.writing import write_clouds
    from peftcore_train.progress import Progress

    named = dict(text.split("=", 1) for text in files)
    found = write_clouds(str(source), output, points, named, Progress(quiet=quiet))
    if as_json:
        print_json(found)
    else:
        for name, count in found.items():
            click.echo(f"{output / name}: {count:,} clouds")
