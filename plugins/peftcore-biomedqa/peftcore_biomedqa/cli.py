"""``peftcore qa-rows`` and ``peftcore qa-score``."""

import json
from pathlib import Path

import click

from peftcore import ConfigError, DataError
from peftcore_train.cli.options import as_json, print_json


@click.command()
@click.argument("release", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--corpus", type=click.Choice(["pubmedqa", "bioasq"]), default="pubmedqa", show_default=True,
    help="How RELEASE is laid out.",
)  # fmt: skip
def qa_rows(release: Path, output: Path, corpus: str) -> None:
    """Write the questions of RELEASE, a JSON file, to OUTPUT as JSON lines.

    Rows have an id, a question, a context and, where RELEASE has one, a label. The long answer is
    left out.
    """
    from peftcore_biomedqa.releases import READERS

    if output.exists():
        raise ConfigError(f"{output} exists already; name a new file.")
    count, part = 0, output.with_name(f"{output.name}.part")
    with part.open("w", encoding="utf-8") as file:
        for row in READERS[corpus](release):
            if isinstance(row, DataError):
                part.unlink()
                raise row
            file.write(json.dumps(row.values, ensure_ascii=False) + "\n")
            count += 1
    part.rename(output)
    click.echo(f"{count:,} questions written to {output}", err=True)


@click.command()
@click.argument("answers", type=click.Path(path_type=Path))
@click.argument("references", type=click.Path(path_type=Path))
@as_json
def qa_score(answers: Path, references: Path, as_json: bool) -> None:
    """Score ANSWERS by REFERENCES: {id: answer} in a .json, or rows with an id and a label.

    Accuracy and macro F1 are those of PubMedQA's evaluation.
    """
    from peftcore_biomedqa.scoring import score_files
    from peftcore_train.fitting import Column, print_fitting

    found = score_files(answers, references)
    if as_json:
        print_json(found)
        return
    values = [f"{v:,}" if isinstance(v, int) else f"{v:.4f}" for v in found.values()]
    print_fitting([Column("score", [*found]), Column("value", values)])
