"""Metrics of the two tasks, on torchmetrics."""

import warnings
from collections.abc import Mapping

from torch import Tensor
from torchmetrics import Metric, MetricCollection, classification as tm

from peftcore_train.metrics import MeanLoss


class _MulticlassAUPR(tm.MulticlassAveragePrecision):
    """Average precision; a class that no row has does not count, and that is no news."""

    def compute(self) -> Tensor:  # type: ignore[override]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            value: Tensor = super().compute()
        return value


def interaction_metrics() -> MetricCollection:
    """Return accuracy, AUPR, precision, recall, F1, MCC and specificity."""
    return MetricCollection(
        {
            "loss": MeanLoss(),
            "accuracy": tm.BinaryAccuracy(),
            "aupr": tm.BinaryAveragePrecision(),
            "precision": tm.BinaryPrecision(),
            "recall": tm.BinaryRecall(),
            "f1": tm.BinaryF1Score(),
            "mcc": tm.BinaryMatthewsCorrCoef(),
            "specificity": tm.BinarySpecificity(),
        },
        compute_groups=False,
    )


def symmetry_metrics(classes: int) -> MetricCollection:
    """Return macro metrics of the classes, and AUPR, accuracy and F1 of each."""
    metrics: Mapping[str, Metric] = {
        "loss": MeanLoss(),
        "accuracy": tm.MulticlassAccuracy(classes, average="macro"),
        "aupr": _MulticlassAUPR(classes, average="macro"),
        "precision": tm.MulticlassPrecision(classes, average="macro"),
        "recall": tm.MulticlassRecall(classes, average="macro"),
        "f1": tm.MulticlassF1Score(classes, average="macro"),
        "mcc": tm.MulticlassMatthewsCorrCoef(classes),
        "specificity": tm.MulticlassSpecificity(classes, average="macro"),
        "class_accuracy": tm.MulticlassAccuracy(classes, average=None),
        "class_aupr": _MulticlassAUPR(classes, average=None),
        "class_f1": tm.MulticlassF1Score(classes, average=None),
    }
    return MetricCollection(dict(metrics), compute_groups=False)
