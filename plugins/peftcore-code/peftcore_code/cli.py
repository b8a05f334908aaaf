"""``peftcore review-score``."""

from pathlib import Path

import click

from peftcore_train.cli.options import as_json, print_json

_COLUMNS = {"necessity": "y", "comment": "msg", "refinement": "new"}


@click.command()
@click.argument("answers", type=click.Path(path_type=Path))
@click.argument("references", type=click.Path(path_type=Path))
@click.option(
    "--action", type=click.Choice([*_COLUMNS]), default="comment", show_default=True,
    help="What the answers are.",
)  # fmt: skip
@click.option("--id", "id_column", default="id", show_default=True, help="Column of both files.")
@click.option(
    "--answer", default="completion", show_default=True, help="Column of the answer in ANSWERS."
)
@click.option(
    "--reference", help="Column in REFERENCES; the one that CodeReviewer has, if not given."
)
@as_json
def review_score(
    answers: Path,
    references: Path,
    action: str,
    id_column: str,
    answer: str,
    reference: str | None,
    as_json: bool,
) -> None:
    """Score ANSWERS by REFERENCES, two files of rows with ids, whoever wrote the answers.

    BLEU-4 is that of CodeReviewer's evaluator, with stop words and without; beside it stands the
    BLEU of the corpus by sacrebleu. What a diff put in front of lines is left out of neither file.
    """
    # torch, which the help does not need
    from peftcore_code.scoring import score_files
    from peftcore_train.fitting import Column, print_fitting

    found = score_files(
        answers, references, action, id_column, answer, reference or _COLUMNS[action]
    )
    if as_json:
        print_json(found)
        return
    print_fitting(
        [
            Column("score", [*found]),
            Column(
                "value", [f"{v:,}" if isinstance(v, int) else f"{v:.4f}" for v in found.values()]
            ),
        ]
    )
