"""What tasks share that give one label to a file: an image, a recording."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from peftcore import Loaded, Strict
from peftcore_train.data import Columns, Row
from peftcore_train.task import Batch, Features, Task
from peftcore_train.tasks.labels import Label, Labels
from peftcore_train.tasks.one_label import OneLabel

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class OneFileConfig(Strict):
    """Fields of every task on files; a subclass has a field ``file_column`` besides."""

    label_column: str = Field("label", description="Column of the label, a text or an integer.")
    labels: tuple[Label, ...] | None = Field(
        None, min_length=2, description="The labels in order; sorted from the training rows."
    )
    class_weights: Literal["none", "balanced"] | dict[str, float] = Field(
        "none",
        description="Weight of each label in the loss: `none`, `balanced` (inverse frequency), or"
        " label to weight.",
    )


class OneFile(Task):
    """Cross-entropy of the label of a file, which is read anew for each batch.

    A subclass says what a file must be, and how some become a batch.
    """

    modules_to_save = ("head",)
    default_metric = "accuracy"
    metric_names = OneLabel.metric_names

    def __init__(self, config: OneFileConfig):
        super().__init__(config)
        self.labels = Labels(config.labels)
        self.kind = OneLabel(config, self.labels)

    def look(self, row: Row) -> Path:
        """Read the file of a row and return where it is.

        Raises:
            DataError: it is missing, or is not what the task reads.
        """
        raise NotImplementedError

    def columns(self) -> Columns:
        """Return the columns of the file and of its label."""
        label = self.config.label_column
        return Columns((self.config.file_column,), (label,), label, files=True)

    def learn(self, rows: Sequence[Row]) -> None:
        """Take the labels and their frequencies from the training rows."""
        self.kind.learn(rows)
        self.metric_names = self.kind.metric_names

    @property
    def needs_rows(self) -> bool:
        """Whether the labels are still to be learned."""
        return not self.labels.all

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has a label and a file that can be read."""
        for row in rows:
            self.kind.answer(row)
            self.look(row)

    def learned(self) -> dict[str, Any]:
        """Return the labels in the order of the head's outputs."""
        return {"labels": list(self.labels.all)}

    def load_options(self) -> dict[str, Any]:
        """Return the number of labels."""
        return {"num_labels": len(self.labels)}

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the file's path and the index of the label; the file is read for each batch."""
        if not labelled:
            return {"file": str(self.look(row)), "where": row.where}
        path = row.path(self.config.file_column)
        return {"file": str(path), "where": row.where, "answer": self.kind.answer(row)}

    def targets(self, rows: Sequence[Features]) -> Batch:
        """Return the answers of some rows as ``target``, where they have any."""
        if "answer" not in rows[0]:
            return {}
        return {"target": torch.tensor([row["answer"] for row in rows])}

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the head's outputs, [B, C], in single precision."""
        inputs = {name: value for name, value in batch.items() if name != "target"}
        out = model(**inputs)
        logits: Tensor = out if isinstance(out, Tensor) else out.logits
        return logits.float()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy, weighted by class."""
        return self.kind.loss(self.logits(model, batch), batch["target"])

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return logits, targets and the plain cross-entropy of each row."""
        return self.kind.scores(self.logits(model, batch), batch["target"])

    def metrics(self) -> "MetricCollection":
        """Return accuracy, macro F1 and MCC; for two labels AUROC and average precision."""
        return self.kind.metrics()

    def predict(self, model: nn.Module, batch: Batch, loaded: Loaded) -> list[dict[str, Any]]:
        """Return the label and the probability of every label."""
        return self.kind.predictions(self.logits(model, batch))
