"""What each test row was scored by: kept with a run, so that runs can be compared row by row."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from peftcore import CheckpointError
from peftcore_train.rundir import unwritable

RowScores = dict[str, Tensor]
#: Most numbers of one row that are kept; logits of a vocabulary for each token are not.
_MOST = 1024
#: Metrics that are the loss, and those of numbers that are judged by the squares of their errors.
_LOSSES = ("loss", "perplexity")
_SQUARED = ("mse", "rmse", "r2")


def in_order(batches: Sequence[RowScores], order: Sequence[int]) -> RowScores:
    """Return what is kept of the batches of a split, by row of the data.

    Left out is what has another shape in every batch, such as a number for each token.

    Args:
        batches: what :meth:`Task.score` returned; the first axis of each tensor is the row.
        order: index in the data of each row, as the batches have them.
    """
    kept: RowScores = {}
    for name in batches[0] if batches else ():
        parts = [batch[name] for batch in batches]
        shape = parts[0].shape[1:]
        rows = sum(len(part) for part in parts)
        alike = rows == len(order) and all(part.shape[1:] == shape for part in parts)
        if alike and shape.numel() <= _MOST:
            found = torch.cat(parts)
            kept[name] = torch.empty_like(found).index_copy_(0, torch.tensor(order), found)
    return kept


def write(path: Path, rows: RowScores) -> None:
    """Write what is kept of the rows.

    Raises:
        CheckpointError: the disk refuses.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        save_file({name: tensor.contiguous() for name, tensor in rows.items()}, part)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def read(path: Path) -> RowScores:
    """Return what a run kept of its test rows.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error


def of_metric(rows: RowScores, metric: str) -> tuple[str, bool, Tensor]:
    """Return for each row the number whose mean comes nearest to a metric.

    Metrics that are no mean over rows (F1, AUROC, a correlation) are judged by what they are made
    of: whether a label is right, how far a number is off.

    Returns:
        What it is, whether greater is better, and [R] the numbers.

    Raises:
        CheckpointError: nothing of the kind was kept.
    """
    if metric not in _LOSSES:
        if metric in rows and rows[metric].ndim == 1:
            return metric, True, rows[metric].double()
        if {"preds", "target"} <= rows.keys():
            found = _of_predictions(rows["preds"], rows["target"], metric)
            if found is not None:
                return found
        if {"correct", "count"} <= rows.keys():
            return "accuracy", True, rows["correct"].double() / rows["count"].clamp(min=1)
    if "loss" in rows:
        count = rows["count"].clamp(min=1) if "count" in rows else 1
        return "loss", False, rows["loss"].double() / count
    raise CheckpointError(f"nothing is kept of single rows by which {metric} could be judged.")


def _of_predictions(
    predicted: Tensor, target: Tensor, metric: str
) -> tuple[str, bool, Tensor] | None:
    """Return what a label or numbers are judged by; None where predictions are something else."""
    labels = not target.is_floating_point()
    if labels and target.ndim == 1 and predicted.ndim == 2:
        return "accuracy", True, (predicted.argmax(-1) == target).double()
    if predicted.shape != target.shape or labels != (not predicted.is_floating_point()):
        return None
    if labels:
        same = (predicted == target).reshape(len(target), -1)
        return "accuracy", True, same.double().mean(-1)
    error = (predicted.double() - target.double()).reshape(len(target), -1)
    if metric in _SQUARED:
        return "squared error", False, error.square().mean(-1)
    return "absolute error", False, error.abs().mean(-1)
