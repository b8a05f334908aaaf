"""``peftcore predict``."""

import json
import sys
from pathlib import Path

import click

from peftcore import ConfigError


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--input", "source", required=True, help="File of rows, .jsonl, .csv or .tsv; - is stdin."
)
@click.option("--output", type=click.Path(path_type=Path), help="File to write; stdout by default.")
def predict(run: Path, source: str, output: Path | None) -> None:
    """Predict for rows with the adapter of RUN, one JSON object a line.

    Labels with their probabilities, or, for a language model, what follows the prompt.
    """
    if output is not None and not output.parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {output.parent}; make it first.")
    if output is not None and output.is_dir():
        raise ConfigError(f"--output {output} is a folder; name a file in it.")

    from peftcore_train.data import decoded, read_rows, rows_of_text
    from peftcore_train.trained import open_trained, predictions

    if source == "-":
        text = decoded(sys.stdin.buffer.read(), "stdin")
        rows = rows_of_text(text, "stdin", ".jsonl")
    else:
        rows = read_rows(Path(source))
    opened = open_trained(run)
    if len(opened) > 1:
        arms = ", ".join(str(run / trained.job.arm) for trained in opened)
        raise ConfigError(f"{run} holds several runs; name one: {arms}.")
    lines = [json.dumps(item, ensure_ascii=False) for item in predictions(opened[0], rows)]
    text = "\n".join(lines) + "\n"
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
