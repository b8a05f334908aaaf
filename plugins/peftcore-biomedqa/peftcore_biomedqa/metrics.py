"""Scores of answers to yes/no questions."""

from collections.abc import Sequence

from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from peftcore_train.metrics import MeanLoss


class F1OfLabels(MulticlassF1Score):
    """F1 of each label, named by it."""

    def __init__(self, labels: Sequence[str]):
        super().__init__(len(labels), average="none")
        self.names = labels


def answer_metrics(labels: Sequence[str]) -> MetricCollection:
    """Return loss, accuracy, macro F1 over the labels that occur, and the F1 of each label."""
    count = len(labels)
    metrics: dict[str, Metric | MetricCollection] = {
        "loss": MeanLoss(),
        "accuracy": MulticlassAccuracy(count, average="micro"),
        "f1": MulticlassF1Score(count, average="macro"),
        "f1_of": F1OfLabels(labels),
    }
    return MetricCollection(metrics, compute_groups=False)
