"""One label among several: cross-entropy over the softmax."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from peftcore import DataError
from peftcore_train.data import Row
from peftcore_train.tasks.labels import Label, Labels, label_of

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

#: Metrics of one label among several, and those that two labels have besides.
_SEVERAL = {"loss": False, "accuracy": True, "f1": True, "mcc": True}
_TWO = {"auroc": True, "average_precision": True}


class OneLabel:
    """What a head of sequence classification says where each row has one label.

    Args:
        config: the ``task`` section.
        labels: the labels, which :meth:`learn` completes.
    """

    default_metric = "accuracy"
    metric_names: Mapping[str, bool] = {**_SEVERAL, **_TWO}

    def __init__(self, config: Any, labels: Labels):
        self.config = config
        self.labels = labels
        self.weights: Tensor | None = None

    def learn(self, rows: Sequence[Row]) -> None:
        """Take labels and frequencies from the training rows.

        Raises:
            DataError: there are not two labels, or one that shall be balanced has no row.
            ConfigError: the weights do not fit the labels.
        """
        given = [self._label(row) for row in rows]
        self.labels.learn(given)
        pairs = zip(given, rows, strict=True)
        counts = Counter(self.labels.index(label, row) for label, row in pairs)
        if len(counts) < 2:
            file = rows[0].where.rpartition(":")[0]
            raise DataError(
                f"{file}: every row has the label {given[0]!r}; at least two labels are needed."
            )
        self.weights = self._class_weights(counts)
        if len(self.labels) > 2:
            self.metric_names = _SEVERAL

    def answer(self, row: Row) -> int:
        """Return the index of a row's label."""
        return self.labels.index(self._label(row), row)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy, weighted by class; logits [B, C], target [B]."""
        weights = None if self.weights is None else self.weights.to(logits.device)
        return F.cross_entropy(logits, target, weight=weights)

    def scores(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return logits, targets and the plain cross-entropy of each row."""
        scores = {
            "preds": logits,
            "target": target,
            "loss": F.cross_entropy(logits, target, reduction="none"),
            "count": torch.ones_like(target),
        }
        if len(self.labels) == 2:
            scores["positive"] = logits.softmax(-1)[:, 1]
        return scores

    def metrics(self) -> "MetricCollection":
        """Return accuracy, macro F1 and MCC; for two labels AUROC and average precision."""
        # seconds of imports, which nothing but scoring needs
        from peftcore_train.metrics import classification_metrics

        return classification_metrics(len(self.labels))

    def predictions(self, logits: Tensor) -> list[dict[str, Any]]:
        """Return the likeliest label of each row, and the probability of every label."""
        names = self.labels.names
        return [
            {
                "label": self.labels.all[int(row.argmax())],
                "probabilities": dict(zip(names, row.tolist(), strict=True)),
            }
            for row in logits.softmax(-1).cpu()
        ]

    def _label(self, row: Row) -> Label:
        return label_of(row.column(self.config.label_column), row)

    def _class_weights(self, counts: Mapping[int, int]) -> Tensor | None:
        chosen, labels = self.config.class_weights, self.labels
        if chosen == "none":
            return None
        if chosen != "balanced":
            return labels.weights(chosen)
        if unseen := labels.unseen(counts):
            raise DataError(
                f"task.class_weights: balanced, but no training row has the label {unseen}."
            )
        total = sum(counts.values())
        return torch.tensor([total / (len(labels) * counts[i]) for i in range(len(labels))])
