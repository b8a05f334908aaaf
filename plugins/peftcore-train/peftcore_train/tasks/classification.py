"""Sequence classification: one label for a text, a pair of texts, or a sequence of residues."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from peftcore import DataError, Loaded
from peftcore_train.data import Row
from peftcore_train.task import Batch
from peftcore_train.tasks.labels import Label, Labels, label_of
from peftcore_train.tasks.whole_text import WholeText, WholeTextConfig

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

#: Metrics of one label among several, and those that two labels have besides.
_SEVERAL = {"loss": False, "accuracy": True, "f1": True, "mcc": True}
_TWO = {"auroc": True, "average_precision": True}


class ClassificationConfig(WholeTextConfig):
    """The ``task`` section of sequence classification."""

    label_column: str = Field("label", description="Column of the label, a text or an integer.")
    labels: tuple[Label, ...] | None = Field(
        None, min_length=2, description="The labels in order; sorted from the training rows."
    )
    class_weights: Literal["none", "balanced"] | dict[str, float] = Field(
        "none",
        description="Weight of each label in the loss: `none`, `balanced` (inverse frequency), or"
        " label to weight.",
    )


class SequenceClassification(WholeText):
    """Cross-entropy on the head of ``AutoModelForSequenceClassification``."""

    default_metric = "accuracy"
    metric_names: Mapping[str, bool] = {**_SEVERAL, **_TWO}

    def __init__(self, config: ClassificationConfig):
        super().__init__(config)
        self.labels = Labels(config.labels)
        self.weights: Tensor | None = None

    def learn(self, rows: Sequence[Row]) -> None:
        """Take the labels and their frequencies from the training rows."""
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

    @property
    def needs_rows(self) -> bool:
        """Whether the labels are still to be learned."""
        return not self.labels

    def answer(self, row: Row) -> int:
        """Return the index of a row's label."""
        return self.labels.index(self._label(row), row)

    def learned(self) -> dict[str, Any]:
        """Return the labels in the order of the head's outputs."""
        return {"labels": list(self.labels.all)}

    def load_options(self) -> dict[str, Any]:
        """Return the number of labels."""
        return {"num_labels": len(self.labels)}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy, weighted by class."""
        logits = self.logits(model, batch)
        weights = None if self.weights is None else self.weights.to(logits.device)
        return F.cross_entropy(logits, batch["target"], weight=weights)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return logits, targets and the plain cross-entropy of each row."""
        logits, target = self.logits(model, batch), batch["target"]
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

    def predict(self, model: nn.Module, batch: Batch, loaded: Loaded) -> list[dict[str, Any]]:
        """Return the label and the probability of every label."""
        names = self.labels.names
        return [
            {
                "label": self.labels.all[int(row.argmax())],
                "probabilities": dict(zip(names, row.tolist(), strict=True)),
            }
            for row in self.logits(model, batch).softmax(-1).cpu()
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
