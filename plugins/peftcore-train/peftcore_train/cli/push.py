"""``peftcore push``."""

from pathlib import Path

import click

from peftcore_train.cli.options import as_json, print_json, quiet


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("name")
@click.option("--merged", is_flag=True, help="Push the whole model, as `peftcore merge` writes it.")
@click.option("--private", is_flag=True, help="Make a repository that only its owner sees.")
@click.option("--dry-run", is_flag=True, help="Show the files and the card, and send nothing.")
@as_json
@quiet
def push(
    run: Path, name: str, merged: bool, private: bool, dry_run: bool, as_json: bool, quiet: bool
) -> None:
    """Put the adapter of RUN on the Hugging Face hub as NAME, with a card made from the run.

    RUN is a run directory or an adapter that training wrote; NAME is owner/name.
    """
    from peftcore_train.progress import Progress

    progress = Progress(quiet=quiet)
    progress.say(f"preparing {name}")
    with progress.doing("importing torch"):
        from peftcore_train.handing_over import push as send
        from peftcore_train.trained import one_trained

    done = send(one_trained(run), name, progress, merged=merged, private=private, dry_run=dry_run)
    if as_json:
        print_json({"name": name, "url": done.url, "files": done.files, "card": done.card})
        return
    for file, size in done.files.items():
        click.echo(f"{size:>14,}  {file}")
    click.echo(f"\n{done.card}" if dry_run else f"\n{done.url}")
