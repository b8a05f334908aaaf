"""The scores of GLUE: F1 of the positive label, and means of two scores."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassMatthewsCorrCoef
from torchmetrics.functional.regression import pearson_corrcoef, spearman_corrcoef

from peftcore_train.metrics import ByColumn, MeanLoss


class PositiveF1(Metric):
    """F1 of the second label: ``update(preds, target)``, [B, 2] logits and [B] numbers."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        #: [target, predicted]
        self.add_state("counts", torch.zeros(2, 2, dtype=torch.float64), "sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add the rows of a batch."""
        one = torch.ones_like(target, dtype=torch.float64)
        self.counts.index_put_((target, preds.argmax(-1)), one, accumulate=True)

    def compute(self) -> Tensor:
        """Return 2 right / (given + predicted), 0 where there is none of either."""
        both = self.counts[1].sum() + self.counts[:, 1].sum()
        return 2 * self.counts[1, 1] / both.clamp(min=1)


class AccuracyAndF1(PositiveF1):
    """Plain mean of accuracy and F1."""

    def compute(self) -> Tensor:
        """Return the mean."""
        return (self.counts.trace() / self.counts.sum() + super().compute()) / 2


def _pearson_and_spearman(values: Tensor, target: Tensor) -> Tensor:
    return (pearson_corrcoef(values, target) + spearman_corrcoef(values, target)) / 2


def glue_metrics(names: Sequence[str], labels: int) -> MetricCollection:
    """Return loss and the scores that are named; of no labels those of a number."""
    both = ByColumn(_pearson_and_spearman, varied="both")
    known: dict[str, Metric] = {
        "pearson": ByColumn(pearson_corrcoef, varied="both"),
        "spearman": ByColumn(spearman_corrcoef, varied="both"),
        "combined": AccuracyAndF1() if labels else both,
        "f1": PositiveF1(),
    }
    if labels:
        known["accuracy"] = MulticlassAccuracy(labels, average="micro")
        known["mcc"] = MulticlassMatthewsCorrCoef(labels)
    found: dict[str, Metric | MetricCollection] = {"loss": MeanLoss()}
    found |= {name: known[name] for name in names}
    return MetricCollection(found, compute_groups=False)
