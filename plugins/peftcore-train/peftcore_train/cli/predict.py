"""``peftcore predict``."""

import sys
from pathlib import Path

import click

from peftcore import ConfigError
from peftcore_train.cli.options import quiet, settings


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--input", "source", required=True,
    help="File of rows, in any format that training reads; - is JSON lines on stdin.",
)  # fmt: skip
@click.option(
    "--output", type=click.Path(path_type=Path),
    help="New file, .jsonl, .csv, .tsv or .parquet; JSON lines on stdout by default.",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with an output that was stopped.")
@click.option("--probabilities", is_flag=True, help="Add the probability of every label.")
@click.option(
    "--embeddings", is_flag=True,
    help="Write the mean of the last hidden states of each row in place of a prediction.",
)  # fmt: skip
@settings
@quiet
def predict(
    run: Path, source: str, output: Path | None, resume: bool, probabilities: bool,
    embeddings: bool, overrides: tuple[str, ...], quiet: bool,
) -> None:  # fmt: skip
    """Predict for rows with the adapter of RUN, a run directory or an adapter of training.

    Each row keeps its columns. What is predicted for it stands behind them: a label, a value, or
    what a language model writes after the prompt. Where a column has that name already, it is
    called predicted_NAME.
    """
    from peftcore_train.outputs import check_output

    if output is None and resume:
        raise ConfigError("--resume goes on with a file: name it with --output.")
    if embeddings and probabilities:
        raise ConfigError("give --embeddings or --probabilities, not both.")
    if output is not None:
        check_output(output, resume)

    from peftcore_train.progress import Progress

    progress = Progress(quiet=quiet)
    progress.say(f"predicting for {source}")

    with progress.doing("importing torch"):
        from peftcore_train.data import decoded, read_rows, rows_of_json
        from peftcore_train.predicted import Asked, predict_rows

    if source == "-":
        rows = rows_of_json(decoded(sys.stdin.buffer.read(), "stdin"), "stdin")
    else:
        rows = read_rows(Path(source))
    asked = Asked(overrides, probabilities=probabilities, embeddings=embeddings)
    predict_rows(run, rows, asked, output, progress)
