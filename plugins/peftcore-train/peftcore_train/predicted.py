"""``peftcore predict`` from rows to its output: what is kept of each row, and going on."""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peftcore import ConfigError
from peftcore_train.data import Row
from peftcore_train.errors import Interrupted
from peftcore_train.outputs import Output, as_line
from peftcore_train.predicting import Predictor
from peftcore_train.progress import Progress
from peftcore_train.signals import stop_on_signals
from peftcore_train.trained import Trained, one_trained

_PROBABILITIES = "probabilities"


@dataclass(frozen=True)
class Asked:
    """What is to be predicted.

    Attributes:
        overrides: changes of the recipe.
        probabilities: keep the probability of every label.
        embeddings: hidden states in place of predictions.
    """

    overrides: tuple[str, ...] = ()
    probabilities: bool = False
    embeddings: bool = False


def predict_rows(
    run: Path, rows: Sequence[Row], asked: Asked, output: Path | None, progress: Progress
) -> None:
    """Predict for rows, and write each with its prediction, to a file or to stdout.

    Raises:
        ConfigError: the run cannot do what is asked.
        DataError: a row does not fit; nothing has been predicted.
        Interrupted: a signal came; what was predicted is kept.
    """
    trained = one_trained(run, asked.overrides)
    if output is None:
        _predict(trained, rows, asked, None, progress)
        return
    if output.exists():
        progress.say(f"{output} is whole; nothing is left to predict.")
        return
    file = Output(output, _about(trained, rows, asked))
    try:
        with stop_on_signals():
            _predict(trained, rows, asked, file, progress)
        file.finish()
    except Interrupted:
        if not file.done:
            raise
        raise Interrupted(
            f"interrupted after {file.done:,} of {len(rows):,} rows. Go on with the same command"
            " and --resume."
        ) from None
    finally:
        file.drop()
    progress.say(f"predictions written to {output}")


def _about(trained: Trained, rows: Sequence[Row], asked: Asked) -> dict[str, Any]:
    """Return what tells one output from another: the adapter, the settings and the rows."""
    digest = hashlib.sha256()
    for row in rows:
        # an image or a sound is known by where its row stands
        values = {**row.values, "": row.where}
        digest.update(json.dumps(values, default=lambda value: type(value).__name__).encode())
    adapter = hashlib.sha256((trained.adapter / "adapter.json").read_bytes()).hexdigest()
    settings = asdict(asked) | {"overrides": list(asked.overrides)}
    return {"adapter": adapter, "rows": digest.hexdigest(), **settings}


def _predict(
    trained: Trained, rows: Sequence[Row], asked: Asked, file: Output | None, progress: Progress
) -> None:
    done = file.done if file else 0
    if done:
        progress.say(f"{done:,} of {len(rows):,} rows are there already")
    names = {name for row in rows for name in row.values}
    predictor = Predictor(trained, progress, embeddings=asked.embeddings)
    predictor.check(rows)
    left = rows[done:]
    coming = iter(left)
    for found in predictor.predictions(left):
        records = [_record(next(coming), answer, asked, names, trained) for answer in found]
        if file is None:
            sys.stdout.writelines(map(as_line, records))
            sys.stdout.flush()
        else:
            file.add(records)


def _record(
    row: Row, answer: dict[str, Any], asked: Asked, names: set[str], trained: Trained
) -> dict[str, Any]:
    """Return the columns of a row and what was predicted, under names that no column has."""
    if asked.probabilities and _PROBABILITIES not in answer:
        raise ConfigError(
            f"--probabilities: the task {trained.job.task_type} predicts {', '.join(answer)}."
        )
    kept = {name: value for name, value in row.values.items() if _is_plain(value)}
    for name, value in answer.items():
        if name != _PROBABILITIES or asked.probabilities:
            kept[f"predicted_{name}" if name in names else name] = value
    return kept


def _is_plain(value: Any) -> bool:
    """Tell what JSON can hold from an image or a sound."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
