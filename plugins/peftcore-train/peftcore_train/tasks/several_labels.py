"""Any number of labels a row: binary cross-entropy of each label."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from peftcore import ConfigError, DataError, nearest
from peftcore_train.data import Row
from peftcore_train.tasks.labels import Label, Labels, label_of

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class SeveralLabels:
    """What a head of sequence classification says where each label is yes or no.

    Args:
        config: the ``task`` section.
        labels: the labels, which :meth:`learn` completes.
    """

    default_metric = "f1"
    metric_names: Mapping[str, bool] = {
        "loss": False,
        "f1": True,
        "f1_macro": True,
        "subset_accuracy": True,
        "average_precision": True,
        "auroc": True,
    }

    def __init__(self, config: Any, labels: Labels):
        self.config = config
        self.labels = labels
        self.weights: Tensor | None = None

    def learn(self, rows: Sequence[Row]) -> None:
        """Take labels and frequencies from the training rows.

        Raises:
            DataError: there are not two labels, or one that shall be balanced has no row.
            ConfigError: weights or thresholds do not fit the labels.
        """
        given = [self._given(row) for row in rows]
        self.labels.learn(label for labels in given for label in labels)
        pairs = [(label, row) for labels, row in zip(given, rows, strict=True) for label in labels]
        counts = Counter(self.labels.index(label, row) for label, row in pairs)
        if len(self.labels) < 2:
            file = rows[0].where.rpartition(":")[0]
            raise DataError(
                f"{file}: the rows have {len(self.labels)} labels; at least two are needed."
            )
        self.weights = self._positive_weights(counts, len(rows))
        self._thresholds()

    def answer(self, row: Row) -> list[float]:
        """Return 1 or 0 for each label."""
        found = {self.labels.index(label, row) for label in self._given(row)}
        return [float(i in found) for i in range(len(self.labels))]

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean binary cross-entropy; logits and target [B, C]."""
        weights = None if self.weights is None else self.weights.to(logits.device)
        return F.binary_cross_entropy_with_logits(logits, target, pos_weight=weights)

    def scores(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return probabilities, what is over its threshold, targets, and the loss of each row."""
        chances = logits.sigmoid()
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return {
            "values": chances,
            "preds": self._over(chances).long(),
            "target": target.long(),
            "loss": losses.mean(1),
            "count": torch.ones_like(target[:, 0]),
        }

    def metrics(self) -> "MetricCollection":
        """Return F1, micro and macro, the share of rows that are all right, mAP and AUROC."""
        # seconds of imports, which nothing but scoring needs
        from peftcore_train.metrics import several_label_metrics

        return several_label_metrics(len(self.labels))

    def predictions(self, logits: Tensor) -> list[dict[str, Any]]:
        """Return the labels over their threshold, and the probability of every label."""
        chances = logits.sigmoid()
        names = self.labels.names
        return [
            {
                "labels": [self.labels.all[i] for i in chosen.nonzero().flatten().tolist()],
                "probabilities": dict(zip(names, row.tolist(), strict=True)),
            }
            for row, chosen in zip(chances.cpu(), self._over(chances).cpu(), strict=True)
        ]

    def _over(self, chances: Tensor) -> Tensor:
        return chances >= chances.new_tensor(self._thresholds())

    def _thresholds(self) -> list[float]:
        chosen = self.config.threshold
        if not isinstance(chosen, dict):
            return [chosen] * len(self.labels)
        for name in chosen:
            if name not in self.labels.names:
                raise ConfigError(
                    f"task.threshold: {name!r} is not a label.{nearest(name, self.labels.names)}"
                )
        return [chosen.get(name, 0.5) for name in self.labels.names]

    def _given(self, row: Row) -> list[Label]:
        value = row.column(self.config.label_column)
        if isinstance(value, str):
            parts = (part.strip() for part in value.split(self.config.label_separator))
            value = [part for part in parts if part]
        if not isinstance(value, list):
            raise DataError(
                f"{row.where}: labels {value!r} are neither a list nor a text; write [] for none."
            )
        labels = [label_of(label, row) for label in value]
        if len({str(label) for label in labels}) < len(labels):
            raise DataError(f"{row.where}: labels {value!r} name one twice.")
        return labels

    def _positive_weights(self, counts: Mapping[int, int], rows: int) -> Tensor | None:
        """Return what rows with a label weigh in its loss; balanced, as much as those without."""
        chosen, labels = self.config.class_weights, self.labels
        if chosen == "none":
            return None
        if chosen != "balanced":
            return labels.weights(chosen)
        if unseen := labels.unseen(counts):
            raise DataError(
                f"task.class_weights: balanced, but no training row has the label {unseen}."
            )
        return torch.tensor([(rows - counts[i]) / counts[i] for i in range(len(labels))])
