"""Metrics of annotated cells, on torchmetrics."""

from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from peftcore_train.metrics import MeanCorrect, MeanLoss


class Found(MulticlassF1Score):
    """An F1 of what was found: ``update(found, target)``."""

    def update(self, found: Tensor, target: Tensor) -> None:
        """Add the rows of a batch."""
        super().update(found, target)


class FoundAccuracy(MulticlassAccuracy):
    """The share of rows for which the right type was found."""

    def update(self, found: Tensor, target: Tensor) -> None:
        """Add the rows of a batch."""
        super().update(found, target)


class Assigned(MeanCorrect):
    """The share of rows that were given a type: ``update(assigned, rows)``."""

    def update(self, assigned: Tensor, rows: Tensor) -> None:
        """Add the rows of a batch."""
        super().update(assigned, rows)


class AssignedAccuracy(MeanCorrect):
    """Of the rows that were given a type the share that was given the right one."""

    def update(self, right: Tensor, assigned: Tensor) -> None:
        """Add the rows of a batch."""
        super().update(right, assigned)


def type_metrics(types: int) -> MetricCollection:
    """Return the metrics of the annotation of cells.

    Args:
        types: how many types there are, ``Unassigned`` among them where cells can be.
    """
    found: dict[str, Metric] = {
        "loss": MeanLoss(),
        "accuracy": FoundAccuracy(types, average="micro"),
        "f1": Found(types, average="macro"),
        "weighted_f1": Found(types, average="weighted"),
        "assigned": Assigned(),
        "assigned_accuracy": AssignedAccuracy(),
    }
    return MetricCollection(found, compute_groups=False)
