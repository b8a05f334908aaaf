"""``peftcore survey`` and ``peftcore answers``."""

from pathlib import Path
from typing import get_args

import click

from peftcore_reasoning.extraction import Paper
from peftcore_reasoning.sets import SetName
from peftcore_train.cli.options import as_json, print_json


@click.command()
@click.option(
    "--table", type=click.Choice(["1", "2"]), help="Commonsense or arithmetic; both by default."
)
@as_json
def survey(table: str | None, as_json: bool) -> None:
    """Plan every row of Tables 1 and 2 of Balne et al. 2024 on LLaMA-7B and 13B.

    The count of each row stands beside the per cent that is printed, with what is wrong with it.
    Nothing is downloaded and no weights are made.
    """
    from peftcore_reasoning.published import lines
    from peftcore_train.fitting import Column, print_fitting

    found = list(lines([int(table)] if table else (1, 2)))
    if as_json:
        print_json([line._asdict() for line in found])
        return
    for number in dict.fromkeys(line.table for line in found):
        of_table = [line for line in found if line.table == number]
        click.echo(f"Table {number}: {('commonsense', 'arithmetic')[number - 1]}")
        print_fitting(
            [
                Column("row", [f"{line.size} {line.label}" for line in of_table]),
                Column("printed %", [line.printed for line in of_table]),
                Column("our %", [f"{line.percent:.4f}" for line in of_table]),
                Column("of", [line.convention.removeprefix("of_") for line in of_table]),
                Column("trainable", [f"{line.trainable:,}" for line in of_table]),
                Column("average", [f"{line.average}" for line in of_table]),
            ]
        )
        for line in of_table:
            if line.verdict:
                where = f"{line.size} {line.label}: {line.printed} %"
                click.echo(f"{where} is {line.verdict}; our plan has {line.percent:.4f} %.")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--of", "name", required=True, type=click.Choice(get_args(SetName)), help="The set.")
@click.option(
    "--extraction", default="loreft", show_default=True, type=click.Choice(get_args(Paper)),
    help="Whose rule finds an answer in a text.",
)  # fmt: skip
@click.option("--column", help="Column of what was written; found by its usual names.")
@click.option(
    "--gold", type=click.Path(path_type=Path), help="File of the set, joined by the column `id`."
)
@as_json
def answers(
    file: Path, name: str, extraction: Paper, column: str | None, gold: Path | None, as_json: bool
) -> None:
    """Score the answers in FILE, a row each, as the paper's script does.

    FILE is what `peftcore predict` wrote, LLM-Adapters' `experiment/*.json` or LoReFT's
    `*_outputs.json`; each row holds what was written and `answer`, or with --gold an `id`.
    """
    from peftcore_reasoning.rescoring import joined, score
    from peftcore_train.data import read_rows

    rows = read_rows(file)
    if gold is not None:
        rows = joined(rows, read_rows(gold))
    found = score(rows, name, extraction, column)
    if as_json:
        print_json(found)
    else:
        none = f", {found['unanswered']:,} without an answer" if found["unanswered"] else ""
        right = f"{found['right']:,} of {found['rows']:,} right"
        click.echo(f"{name}: accuracy {found['accuracy']:.4f} ({right}{none})")
