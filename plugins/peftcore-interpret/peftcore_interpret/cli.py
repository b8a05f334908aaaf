"""``peftcore interpret``."""

from pathlib import Path

import click

from peftcore_interpret.views import VIEWS
from peftcore_train.cli.options import as_json, print_json, quiet, settings


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--what",
    type=click.Choice(VIEWS),
    multiple=True,
    help="What is shown; can be repeated. By default all that the run has.",
)
@click.option(
    "--rows",
    type=click.Path(path_type=Path),
    help="File of rows, in any format that training reads; the run's test rows by default.",
)
@click.option(
    "--row",
    "numbers",
    type=int,
    multiple=True,
    default=(1,),
    show_default=True,
    help="Number of a row that is explained, from 1; can be repeated.",
)
@click.option("--label", help="Label whose logit is explained; the likeliest by default.")
@click.option(
    "--at", type=int, help="Word or residue that is explained, from 1, where each has a label."
)
@click.option(
    "--limit", default=500, show_default=True, help="Rows, from the first, that ablation scores."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder of the pictures; `interpret` in the run's directory by default.",
)
@settings
@as_json
@quiet
def interpret(
    run: Path,
    what: tuple[str, ...],
    rows: Path | None,
    numbers: tuple[int, ...],
    label: str | None,
    at: int | None,
    limit: int,
    output: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Show what the tuned model of RUN looks at in rows, and what its adapter changed.

    gradients: integrated gradients of tuned minus base over tokens. rollout: attention through all
    layers. mutagenesis: every exchange of one residue. ablation: the scores with the adapter off in
    one block after another. spectrum: singular values of what the adapter adds to each weight.
    """
    from peftcore_train.fitting import print_fitting
    from peftcore_train.progress import Progress

    progress = Progress(quiet=quiet)
    with progress.doing("importing torch"):
        from peftcore_interpret import looking

    asked = looking.Asked(what, rows, numbers, label, at, limit, overrides)
    seen = looking.look(run, asked, progress)
    files = looking.write(seen, run / "interpret" if output is None else output)
    for name, reason in seen.left_out.items():
        progress.say(f"left out: {name}: {reason}")
    if as_json:
        print_json({**seen.found, "left_out": seen.left_out, "files": list(map(str, files))})
        return
    for table in looking.tables(seen):
        print_fitting(table)
    for file in files:
        progress.say(str(file))
