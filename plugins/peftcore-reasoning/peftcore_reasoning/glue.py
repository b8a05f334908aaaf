"""GLUE as LoReFT scores it: a half of the validation set chooses, the other half is reported."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from peftcore import DataError, Loaded, nearest
from peftcore_reasoning.glue_files import (
    TASKS,
    GlueName,
    as_datasets,
    has_own_splits,
    label_of,
    rows_of,
)
from peftcore_train.data import Columns, Row, drawn, report
from peftcore_train.schema import DataSection, Split
from peftcore_train.task import Batch, Features, Task
from peftcore_train.tasks.classification import ClassificationConfig, SequenceClassification
from peftcore_train.tasks.regression import Regression, RegressionConfig
from peftcore_train.text import LengthConfig

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

#: Validation sets with more rows than the first give the second to choose by, others half.
_LARGE, _CHOOSING = 5000, 1000


class GlueConfig(LengthConfig):
    """The ``task`` section of GLUE."""

    dataset: GlueName = Field(description="Which of the nine tasks.")
    matched: Literal["matched", "mismatched"] = Field(
        "matched", description="Which validation set of mnli."
    )
    skip_damaged: bool = Field(
        False, description="Leave lines out that are no rows, as scripts for QQP do."
    )


class Glue(Task):
    """The tasks ``sequence-classification`` and ``regression`` on the columns of GLUE."""

    head = "sequence-classification"
    modules_to_save = ("head",)

    def __init__(self, config: GlueConfig):
        super().__init__(config)
        self.glue = TASKS[config.dataset]
        texts = dict(zip(("text_column", "pair_column"), self.glue.texts, strict=False))
        shared = {name: getattr(config, name) for name in LengthConfig.model_fields}
        self.kind: SequenceClassification | Regression
        if self.glue.labels:
            self.kind = SequenceClassification(
                ClassificationConfig(**shared, **texts, labels=self.glue.labels)
            )
        else:
            # numbers from 0 to 5 as they are, as LoReFT's code learns them
            self.kind = Regression(
                RegressionConfig(
                    **shared, **texts, target_columns=("label",), means=(0.0,), deviations=(1.0,)
                )
            )
        self.metric_names = {"loss": False, **dict.fromkeys(self._scores(), True)}
        self.default_metric = self.glue.metric

    @property
    def needs_rows(self) -> bool:
        """Whether the model depends on the rows; labels are known."""
        return False

    def columns(self) -> Columns:
        """Return the columns of the texts and of the label."""
        return Columns(self.glue.texts, ("label",), "label" if self.glue.labels else None)

    def read(
        self, data: DataSection, split: Split, problems: list[DataError] | None = None
    ) -> list[Row]:
        """Return the rows of a split; validation and test are parts of GLUE's validation set.

        A folder with files of splits of its own is read as those of any other task.
        """
        root = Path(data.source).expanduser()
        if not root.is_dir():
            beside = [p.name for p in root.parent.glob("*")] if root.parent.is_dir() else []
            raise DataError(f"data.source {root}: no such folder.{nearest(root.name, beside)}")
        if has_own_splits(root):
            return super().read(data, split, problems)
        found: list[DataError] = []
        part: Literal["train", "dev"] = "train" if split == "train" else "dev"
        rows = rows_of(root, self.config.dataset, part, self.config.matched, found)
        found = [] if self.config.skip_damaged and rows else found
        report(found, problems)
        return drawn(rows if split == "train" else halved(rows, data.seed)[split], data, split)

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has its texts and its label."""
        self.kind.check([self._named(row) for row in rows])

    def learn(self, rows: Sequence[Row]) -> None:
        """Check that the training rows have labels that differ."""
        self.kind.learn([self._named(row) for row in rows])

    def load_options(self) -> dict[str, Any]:
        """Return the number of labels."""
        return self.kind.load_options()

    def model_config(self) -> dict[str, Any]:
        """Return the names of the labels."""
        return self.kind.model_config()

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the model's inputs, the length, and the label."""
        row = self._named(row) if labelled else as_datasets(row, self.glue)
        return self.kind.encode(row, loaded, labelled=labelled)

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Pad on the right."""
        return self.kind.collate(rows)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy, or the squared error."""
        return self.kind.loss(model, batch)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return what the metrics need of each row."""
        return self.kind.score(model, batch)

    def predict(self, model: nn.Module, batch: Batch, loaded: Loaded) -> list[dict[str, Any]]:
        """Return the label of each row, or its number."""
        return self.kind.predict(model, batch, loaded)

    def metrics(self) -> "MetricCollection":
        """Return loss and GLUE's scores of the task."""
        # seconds of imports, which nothing but scoring needs
        from peftcore_reasoning.glue_metrics import glue_metrics

        return glue_metrics(self._scores(), len(self.glue.labels))

    def _scores(self) -> tuple[str, ...]:
        if not self.glue.labels:
            return ("pearson", "spearman", "combined")
        if self.glue.metric == "combined":
            return ("accuracy", "f1", "combined")
        return ("accuracy", "mcc") if self.glue.metric == "mcc" else ("accuracy",)

    def _named(self, row: Row) -> Row:
        """Return a row with its label by name."""
        if not self.glue.labels:
            return row
        return Row({**row.values, "label": label_of(row, self.glue)}, row.where, row.folder)


def halved(rows: Sequence[Row], seed: int) -> dict[Split, list[Row]]:
    """Divide a validation set at random: what chooses the best epoch, and what is reported.

    As LoReFT does (Wu et al. 2024, appendix C.1): 1,000 rows choose where there are more than
    5,000, else half of them, rounded down.
    """
    count = _CHOOSING if len(rows) > _LARGE else len(rows) // 2
    chosen = set(random.Random(seed).sample(range(len(rows)), count))
    parts: dict[Split, list[Row]] = {"validation": [], "test": []}
    for i, row in enumerate(rows):
        parts["validation" if i in chosen else "test"].append(row)
    return parts
