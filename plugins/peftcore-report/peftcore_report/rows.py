"""What the test rows of a run tell: per class, how sure, which were worst."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torchmetrics.functional.classification import multiclass_calibration_error

from peftcore import CheckpointError, PeftcoreError
from peftcore_report import pictures
from peftcore_report.pictures import Picture
from peftcore_train import building, row_scores, rundir
from peftcore_train.data import Row
from peftcore_train.schema import Job

#: Rows that are shown, letters of a text, classes of a confusion matrix, bins of a probability.
_WORST, _LETTERS, _CLASSES, _BINS = 10, 300, 40, 10


@dataclass
class Seen:
    """What a page shows of test rows.

    Attributes:
        pictures: drawings.
        classes: a line of numbers for each label, if there are labels.
        worst: the rows that were judged worst.
        note: why something is not shown, or an empty string.
    """

    pictures: list[Picture] = field(default_factory=list)
    classes: list[dict[str, Any]] = field(default_factory=list)
    worst: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""


def seen(job: Job, place: Path, metric: str) -> Seen:
    """Return what a page shows of the test rows of a run.

    Args:
        job: the recipe of the run, its labels included.
        place: the run directory.
        metric: the metric that chose the best epoch.
    """
    try:
        kept = row_scores.read(place / rundir.ROWS)
        quantity, greater, values = row_scores.of_metric(kept, metric)
    except CheckpointError as error:
        return Seen(note=f"The run kept nothing of its test rows: {error}")
    labels = [str(label) for label in getattr(job.task, "labels", None) or ()]
    predicted, target = kept.get("preds"), kept.get("target")
    found = Seen()
    one_of_labels = (
        predicted is not None
        and target is not None
        and predicted.ndim == 2
        and target.ndim == 1
        and predicted.shape[1] == len(labels)
    )
    texts: list[tuple[str, str]] = []
    if one_of_labels:
        logits, truth = predicted.float(), target.long()
        _classes(found, logits, truth, labels)
        quantity, greater, values = row_scores.of_metric(kept, "loss")
        sure, guess = logits.softmax(-1).max(-1)
        texts = [
            (labels[t], f"{labels[g]} ({p:.2f})")
            for t, g, p in zip(truth.tolist(), guess.tolist(), sure.tolist(), strict=True)
        ]
    elif predicted is not None and target is not None and predicted.shape == target.shape:
        if target.is_floating_point():
            flat = [t.reshape(-1).double().numpy() for t in (target, predicted)]
            found.pictures.append(pictures.scatter(*flat))
            texts = [(_numbers(t), _numbers(p)) for t, p in zip(target, predicted, strict=True)]
    else:
        found.pictures.append(pictures.spread(values.numpy(), quantity))
    _worst(found, job, quantity, values if greater else -values, texts)
    return found


def _classes(found: Seen, logits: torch.Tensor, truth: torch.Tensor, labels: list[str]) -> None:
    guess = logits.argmax(-1)
    every = range(len(labels))
    numbers = precision_recall_fscore_support(truth, guess, labels=every, zero_division=0)
    found.classes = [
        {"label": labels[i], "precision": p, "recall": r, "f1": f, "rows": int(n)}
        for i, (p, r, f, n) in enumerate(zip(*numbers, strict=True))
    ]
    if len(labels) <= _CLASSES:
        counts = confusion_matrix(truth, guess, labels=every)
        found.pictures.append(pictures.confusion(counts, labels))
        for line, row in zip(found.classes, counts, strict=True):
            wrong = [
                (int(n), labels[j]) for j, n in enumerate(row) if n and labels[j] != line["label"]
            ]
            line["taken_for"] = ", ".join(f"{n} {name}" for n, name in sorted(wrong, reverse=True))
    sure = logits.softmax(-1)
    error = float(multiclass_calibration_error(sure, truth, len(labels), n_bins=_BINS))
    highest = sure.max(-1).values.double().numpy()
    right = (guess == truth).double().numpy()
    place = np.minimum((highest * _BINS).astype(int), _BINS - 1)
    there = [i for i in range(_BINS) if (place == i).any()]
    means = [[values[place == i].mean() for i in there] for values in (right, highest)]
    found.pictures.append(pictures.calibration(*map(np.array, means), error))


def _worst(
    found: Seen, job: Job, quantity: str, goodness: torch.Tensor, texts: list[tuple[str, str]]
) -> None:
    """Put the worst rows on the page, with their text where the data is still there."""
    try:
        rows = building.make_task(job).read(job.recipe.data, "test")
    except (PeftcoreError, OSError) as error:
        rows = []
        found.note = f"The test rows themselves cannot be read any more: {error}"
    if rows and len(rows) != len(goodness):
        rows = []
        found.note = "The test rows themselves are not shown: their file has changed since."
    for i in torch.argsort(goodness)[:_WORST].tolist():
        true, predicted = texts[i] if texts else ("", "")
        found.worst.append(
            {
                "row": i + 1,
                "where": rows[i].where if rows else "",
                "text": _text(rows[i]) if rows else "",
                "true": true,
                "predicted": predicted,
                quantity: abs(float(goodness[i])),
            }
        )


def _text(row: Row) -> str:
    text = " | ".join(str(value) for value in row.values.values() if isinstance(value, str))
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]}…"


def _numbers(values: torch.Tensor) -> str:
    return ", ".join(f"{value:.4g}" for value in values.reshape(-1).tolist()[:8])
