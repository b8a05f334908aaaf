"""Annotation of cells: one type for a cell, or none where no type is likely."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from peftcore import DataError, Loaded
from peftcore_singlecell.cell_task import CellConfig, CellTask
from peftcore_train.data import Columns, Row
from peftcore_train.task import Batch, Features
from peftcore_train.tasks.labelled import Labelled
from peftcore_train.tasks.labels import Label, LabelConfig, Labels
from peftcore_train.tasks.one_label import OneLabel

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class CellTypeConfig(LabelConfig, CellConfig):
    """The ``task`` section of the annotation of cells."""

    label_column: str = Field("celltype", description="Column of the type, a column of `obs`.")
    novel_threshold: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="A cell whose likeliest type is less probable is `Unassigned`: perhaps of a"
        " type that training did not have. scBERT takes .5 where there are such cells.",
    )
    novel_types: tuple[Label, ...] = Field(
        (),
        description="Types that training does not have and validation and test may have; such a"
        " cell is right where it is `Unassigned`.",
    )


class Types(OneLabel):
    """One type of a cell; cells that no type is likely for are novel.

    In ``target`` the number after the last type stands for every novel type.
    """

    metric_names = {
        "loss": False,
        "accuracy": True,
        "f1": True,
        "weighted_f1": True,
        "assigned": True,
        "assigned_accuracy": True,
    }

    def learn(self, rows: Sequence[Row]) -> None:
        """Take the types from the training rows, none of which may be novel."""
        for row in rows:
            if self._is_novel(self._label(row)):
                raise DataError(
                    f"{row.where}: the type {self._label(row)!r} is one of task.novel_types, which"
                    " training may not have; leave its cells out of train."
                )
        super().learn(rows)
        self.metric_names = Types.metric_names

    def answer(self, row: Row) -> int:
        """Return the index of a cell's type."""
        label = self._label(row)
        return len(self.labels) if self._is_novel(label) else self.labels.index(label, row)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy of the cells whose type the head has."""
        return super().loss(logits, target.masked_fill(target >= logits.shape[1], -100))

    def scores(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the type of each row, what it should be, and the loss of those that have one."""
        types = logits.shape[1]
        known = target < types
        losses = nn.functional.cross_entropy(logits, target.clamp(max=types - 1), reduction="none")
        assigned = self._assigned(logits)
        found = torch.where(assigned, logits.argmax(-1), types)
        return {
            # a report makes a table of the types of it, which has no place for novel cells
            "preds": found if self._some_are_novel else logits,
            "found": found,
            "target": target,
            "loss": losses * known,
            "count": known.long(),
            "assigned": assigned.long(),
            "right": (assigned & (found == target)).long(),
            "rows": torch.ones_like(target),
        }

    def metrics(self) -> "MetricCollection":
        """Return accuracy, macro and weighted F1, and what the threshold leaves."""
        # seconds of imports, which nothing but scoring needs
        from peftcore_singlecell.metrics import type_metrics

        return type_metrics(len(self.labels) + self._some_are_novel)

    def predictions(self, logits: Tensor) -> list[dict[str, Any]]:
        """Return the type of each row or ``Unassigned``, and the probability of every type."""
        found = super().predictions(logits)
        for answer, assigned in zip(found, self._assigned(logits).tolist(), strict=True):
            if not assigned:
                answer["label"] = "Unassigned"
        return found

    @property
    def _some_are_novel(self) -> bool:
        return bool(self.config.novel_threshold or self.config.novel_types)

    def _is_novel(self, label: Label) -> bool:
        return str(label) in map(str, self.config.novel_types)

    def _assigned(self, logits: Tensor) -> Tensor:
        best: Tensor = logits.softmax(-1).amax(-1) >= self.config.novel_threshold
        return best


class CellType(Labelled, CellTask):
    """Cross-entropy on the classifier of scBERT; cells are read for each batch."""

    head = "cell-type"
    modules_to_save = ("head",)
    default_metric = "accuracy"
    metric_names: Mapping[str, bool] = Types.metric_names

    def __init__(self, config: CellTypeConfig):
        super().__init__(config)
        self.labels = Labels(config.labels)
        self.kind = Types(config, self.labels)

    def columns(self) -> Columns:
        """Return the columns of the cell and of its type."""
        label = self.config.label_column
        return Columns(self.place_columns, (label,), label)

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has a type and names a cell that is there."""
        for row in rows:
            self.kind.answer(row)
        super().check(rows)

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return where a cell is, and the index of its type."""
        features = super().encode(row, loaded, labelled=labelled)
        return {**features, "answer": self.kind.answer(row)} if labelled else features

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Read the tokens of cells, [B, N]; the types become ``target``."""
        batch: Batch = {"input_ids": torch.stack([self.tokens(row) for row in rows])}
        if "answer" in rows[0]:
            batch["target"] = torch.tensor([row["answer"] for row in rows])
        return batch

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the classifier's outputs, [B, C], in single precision."""
        logits: Tensor = model(input_ids=batch["input_ids"])
        return logits.float()
