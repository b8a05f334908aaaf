"""What tasks share that give one label to a file: an image, a recording."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from peftcore import Loaded
from peftcore_train.data import Columns, Row
from peftcore_train.progress import going_over
from peftcore_train.task import Batch, Features
from peftcore_train.tasks.labelled import Labelled
from peftcore_train.tasks.labels import LabelConfig, Labels
from peftcore_train.tasks.one_label import OneLabel


class OneFile(Labelled):
    """Cross-entropy of the label of a file, which is read anew for each batch.

    A subclass says what a file must be, and how some become a batch; its configuration has a field
    ``file_column``.
    """

    modules_to_save = ("head",)
    default_metric = "accuracy"
    metric_names = OneLabel.metric_names

    def __init__(self, config: LabelConfig):
        super().__init__(config)
        self.labels = Labels(config.labels)
        self.kind = OneLabel(config, self.labels)

    def look(self, row: Row) -> Path | str:
        """Read the file of a row and return where it is.

        Raises:
            DataError: it is missing, or is not what the task reads.
        """
        raise NotImplementedError

    def columns(self) -> Columns:
        """Return the columns of the file and of its label."""
        label = self.config.label_column
        return Columns((self.config.file_column,), (label,), label, files=True)

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has a label and a file that can be read."""
        for row in going_over(rows, "looking at files", unit="files"):
            self.kind.answer(row)
            self.look(row)

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
