"""Metrics of the tasks, on torchmetrics; sums are kept in double precision."""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    BinaryAUROC,
    BinaryAveragePrecision,
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassMatthewsCorrCoef,
)
from torchmetrics.utilities import dim_zero_cat


class MeanLoss(Metric):
    """Sum of the rows' losses over the sum of what they count.

    ``update(loss, count)``: [B] summed loss of each row, [B] number of its terms.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), "sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), "sum")

    def update(self, loss: Tensor, count: Tensor) -> None:
        """Add the rows of a batch."""
        self.total += loss.double().sum()
        self.count += count.double().sum()

    def compute(self) -> Tensor:
        """Return the mean."""
        return self.total / self.count


class Perplexity(MeanLoss):
    """Exponential of the mean loss of a token."""

    def compute(self) -> Tensor:
        """Return the perplexity."""
        return super().compute().exp()


class MeanCorrect(MeanLoss):
    """Share of the tokens that were predicted right: ``update(correct, count)``."""

    higher_is_better = True

    def update(self, correct: Tensor, count: Tensor) -> None:
        """Add the rows of a batch."""
        super().update(correct, count)


class PositiveAUROC(BinaryAUROC):
    """AUROC of the second label's probability: ``update(positive, target)``."""

    def update(self, positive: Tensor, target: Tensor) -> None:
        """Add the rows of a batch."""
        super().update(positive, target)

    def compute(self) -> Tensor:  # type: ignore[override]
        """Return the value; not a number where only one label was seen."""
        return super().compute() if _has_both(self.target) else torch.tensor(math.nan)


class PositiveAveragePrecision(BinaryAveragePrecision):
    """Average precision (area under precision and recall) of the second label."""

    def update(self, positive: Tensor, target: Tensor) -> None:
        """Add the rows of a batch."""
        super().update(positive, target)

    def compute(self) -> Tensor:  # type: ignore[override]
        """Return the value; not a number where only one label was seen."""
        return super().compute() if _has_both(self.target) else torch.tensor(math.nan)


def _has_both(target: Any) -> bool:
    return len(dim_zero_cat(target).unique()) == 2


def classification_metrics(labels: int) -> MetricCollection:
    """Return loss, accuracy, macro F1 and MCC; for two labels also AUROC and average precision."""
    metrics: dict[str, Metric | MetricCollection] = {
        "loss": MeanLoss(),
        "accuracy": MulticlassAccuracy(labels, average="micro"),
        "f1": MulticlassF1Score(labels, average="macro"),
        "mcc": MulticlassMatthewsCorrCoef(labels),
    }
    if labels == 2:
        metrics["auroc"] = PositiveAUROC()
        metrics["average_precision"] = PositiveAveragePrecision()
    return MetricCollection(metrics, compute_groups=False)


def token_metrics() -> MetricCollection:
    """Return loss and perplexity of a token, and the share predicted right."""
    return MetricCollection(
        {"loss": MeanLoss(), "perplexity": Perplexity(), "accuracy": MeanCorrect()},
        compute_groups=False,
    )


def computed(metrics: MetricCollection) -> dict[str, float]:
    """Return the values of metrics as plain numbers, in their order.

    A metric with several values, such as one for each class, becomes ``name.0``, ``name.1``, ...
    """
    out: dict[str, float] = {}
    for name, metric in metrics.items(keep_base=True):
        value = metric.compute().double()
        if value.ndim == 0:
            out[name] = float(value)
        else:
            out.update({f"{name}.{i}": float(v) for i, v in enumerate(value)})
    return out
