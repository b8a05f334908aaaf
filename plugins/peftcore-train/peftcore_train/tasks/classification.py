"""Sequence classification: one label for a text, a pair of texts, or a sequence of residues."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from peftcore import ConfigError, DataError, Loaded, nearest
from peftcore_train.data import Row
from peftcore_train.task import Batch, Features, Task
from peftcore_train.text import TokenConfig, encode_text, fills, padded, tokenizer_of

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

Label = str | int
#: Metrics of one label among several, and those that two labels have besides.
_SEVERAL = {"loss": False, "accuracy": True, "f1": True, "mcc": True}
_TWO = {"auroc": True, "average_precision": True}


class ClassificationConfig(TokenConfig):
    """The ``task`` section of sequence classification."""

    text_column: str = Field("text", description="Column of the text or sequence.")
    pair_column: str | None = Field(
        None, description="Column of a second text, encoded together with the first."
    )
    label_column: str = Field("label", description="Column of the label, a text or an integer.")
    labels: tuple[Label, ...] | None = Field(
        None, min_length=2, description="The labels in order; sorted from the training rows."
    )
    class_weights: Literal["none", "balanced"] | dict[str, float] = Field(
        "none",
        description="Weight of each label in the loss: `none`, `balanced` (inverse frequency), or"
        " label to weight.",
    )


class SequenceClassification(Task):
    """Cross-entropy on the head of ``AutoModelForSequenceClassification``."""

    head = "sequence-classification"
    modules_to_save = ("head",)
    default_metric = "accuracy"
    metric_names: Mapping[str, bool] = {**_SEVERAL, **_TWO}

    def __init__(self, config: ClassificationConfig):
        super().__init__(config)
        self.labels: list[Label] = list(config.labels or ())
        self.weights: Tensor | None = None
        self._tokenizer: Any = None
        if len({str(label) for label in self.labels}) < len(self.labels):
            raise ConfigError("task.labels names a label twice.")

    def learn(self, rows: Sequence[Row]) -> None:
        """Take the labels and their frequencies from the training rows."""
        given = [self._label(row) for row in rows]
        if not self.labels:
            self.labels = _sorted({str(label): label for label in given}.values())
        counts = Counter(self._index(label, row) for label, row in zip(given, rows, strict=True))
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

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has a text and a known label."""
        for row in rows:
            for column in self._columns:
                row.text(column)
            self._index(self._label(row), row)

    def learned(self) -> dict[str, Any]:
        """Return the labels in the order of the head's outputs."""
        return {"labels": list(self.labels)}

    def model_config(self) -> dict[str, Any]:
        """Return the names of the labels, and that one of them is right."""
        return {**super().model_config(), "problem_type": "single_label_classification"}

    def load_options(self) -> dict[str, Any]:
        """Return the number of labels."""
        return {"num_labels": len(self.labels)}

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the model's inputs, the length, and the index of the label."""
        self._tokenizer = tokenizer_of(loaded)
        features: Features = encode_text(self.config, row, self._columns, loaded)
        features["length"] = len(features["input_ids"])
        if labelled:
            features["label"] = self._index(self._label(row), row)
        return features

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Pad on the right."""
        batch: Batch = dict(padded(rows, fills(self._tokenizer, rows)))
        if "label" in rows[0]:
            batch["target"] = torch.tensor([row["label"] for row in rows])
        return batch

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy, weighted by class."""
        logits = self._logits(model, batch)
        weights = None if self.weights is None else self.weights.to(logits.device)
        return F.cross_entropy(logits, batch["target"], weight=weights)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return logits, targets and the plain cross-entropy of each row."""
        logits, target = self._logits(model, batch), batch["target"]
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
        names = [str(label) for label in self.labels]
        return [
            {
                "label": self.labels[int(row.argmax())],
                "probabilities": dict(zip(names, row.tolist(), strict=True)),
            }
            for row in self._logits(model, batch).softmax(-1).cpu()
        ]

    @property
    def _columns(self) -> list[str]:
        pair = self.config.pair_column
        return [self.config.text_column, *([pair] if pair else [])]

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs = {k: v for k, v in batch.items() if k != "target"}
        logits: Tensor = model(**inputs).logits
        return logits.float()

    def _label(self, row: Row) -> Label:
        label = row.column(self.config.label_column)
        if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
            raise DataError(f"{row.where}: label {label!r} is neither a text nor an integer.")
        return label

    def _index(self, label: Label, row: Row) -> int:
        names = [str(known) for known in self.labels]
        if str(label) not in names:
            declared = "task.labels" if self.config.labels else "the labels of training"
            raise DataError(
                f"{row.where}: label {label!r} is not among {declared}: {', '.join(names)}."
                f"{nearest(str(label), names)}"
            )
        return names.index(str(label))

    def _class_weights(self, counts: Mapping[int, int]) -> Tensor | None:
        chosen = self.config.class_weights
        names = [str(label) for label in self.labels]
        if chosen == "none":
            return None
        if chosen == "balanced":
            unseen = [name for i, name in enumerate(names) if i not in counts]
            if unseen:
                raise DataError(
                    f"task.class_weights: balanced, but no training row has the label {unseen[0]}."
                )
            total = sum(counts.values())
            return torch.tensor([total / (len(names) * counts[i]) for i in range(len(names))])
        wrong = set(chosen) ^ set(names)
        if wrong or min(chosen.values()) < 0:
            raise ConfigError(
                "task.class_weights: give each label a weight of at least 0; the labels are"
                f" {', '.join(names)}."
            )
        return torch.tensor([chosen[name] for name in names])


def _sorted(labels: Any) -> list[Label]:
    """Sort integers as numbers and everything else as text."""
    found = list(labels)
    if all(isinstance(label, int) or label.lstrip("-").isdigit() for label in found):
        return sorted(found, key=int)
    return sorted(found, key=str)
